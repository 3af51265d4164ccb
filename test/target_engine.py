"""An engine that sees the targets of the grid check in its image, and answers on a chosen grid with chosen noise."""

import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import numpy as np
from fakes import ScriptedEngine

from robobrain_ros.core import Task, profile_for
from robobrain_ros.core.grids import Grid
from robobrain_ros.core.grids.targets import IMAGES
from robobrain_ros.core.profiles import AnswerForm, Profile
from robobrain_ros.engine.base import EngineInfo, Generation, TextDelta

_CHANNEL = {"red": 0, "green": 1, "blue": 2}


@dataclass
class TargetEngine(ScriptedEngine):
    """Answers with the place of the target that the question names.

    :param profile: the family whose form of answers it uses.
    :param grid: the grid on which it answers, whatever the profile states.
    :param rescale: it resizes its images by this factor, as a server does whose processor has a lower pixel limit.
    :param noise: standard deviation of its answers, as a share of the mean side of the image.
    :param misses: share of its answers that are anywhere in the image.
    :param silent: share of its answers that are refusals or texts without coordinates.
    :param form: its answer, with ``X`` and ``Y`` for the place of the target. Empty: a list in the form of RoboBrain.
    """

    scripts: tuple[str, ...] = ("[]",)
    profile: Profile = field(default_factory=lambda: profile_for("robobrain2.0"))
    grid: Grid = Grid.MODEL_PIXELS
    rescale: float = 1.0
    noise: float = 0.0
    misses: float = 0.0
    silent: float = 0.0
    seed: int = 0
    form: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.info = EngineInfo(model="targets", model_type=self.profile.model_type, engine="targets", cell=self.profile.cell)
        self._random = random.Random(self.seed)

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        self.generations.append(generation)
        yield TextDelta(self._answer(generation), 1, finish_reason="stop")

    def _answer(self, generation: Generation) -> str:
        if self._random.random() < self.silent:
            return self._random.choice(["[]", "There is no such object in the image.", "I cannot help with that.", "x"])
        image = generation.images[0]
        height, width = image.shape[:2]
        x, y = self._target(generation.user_text, image)
        if self._random.random() < self.misses:
            x, y = self._random.uniform(0, width - 1), self._random.uniform(0, height - 1)
        spread = self.noise * (width + height) / 2
        x = min(max(self._random.gauss(x, spread), 0), width - 1)
        y = min(max(self._random.gauss(y, spread), 0), height - 1)
        return self._written(*self._on_grid(x, y, width, height))

    def _target(self, text: str, image: np.ndarray) -> tuple[float, float]:
        """Return the centre of the target's pixels in the image that the engine received."""
        channel = next(number for colour, number in _CHANNEL.items() if colour in text)
        coarse = image[::4, ::4].astype(int)
        others = np.delete(coarse, channel, axis=2).max(axis=2)
        rows, columns = np.nonzero(coarse[:, :, channel] - others > 60)
        return 4 * float(columns.mean()), 4 * float(rows.mean())

    def _on_grid(self, x: float, y: float, width: int, height: int) -> tuple[float, float]:
        if self.grid is Grid.MODEL_PIXELS:
            return x * self.rescale, y * self.rescale
        across, down = (x + 0.5) / width, (y + 0.5) / height
        if self.grid is Grid.CAMERA_PIXELS:
            camera = min((image.size for image in IMAGES), key=lambda size: abs(size[0] / size[1] - width / height))
            return across * camera[0] - 0.5, down * camera[1] - 0.5
        factor = 1000.0 if self.grid is Grid.THOUSANDTHS else 1.0
        return across * factor, down * factor

    def _written(self, x: float, y: float) -> str:
        fractions = self.grid is Grid.FRACTIONS

        def number(value: float) -> str:
            return f"{value:.3f}" if fractions else str(round(value))

        if self.form:
            return self.form.replace("X", number(x)).replace("Y", number(y))
        reach = 0.02 if fractions else 20
        forms = {self.profile.form(task) for task in (Task.POINT, Task.GROUND) if task in self.profile.tasks}
        if forms == {AnswerForm.BOXES}:
            low, high = (x - reach, y - reach), (x + reach, y + reach)
            return f"[{', '.join(number(max(value, 0)) for value in (*low, *high))}]"
        return f"[({number(x)}, {number(y)})]"
