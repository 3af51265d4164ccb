"""Scores of comparisons without a model: the true scores with errors of a chosen size.

They show which accuracy a closed loop needs. They do not show the accuracy of a model.
"""

import math
import random
from collections.abc import Iterable, Iterator

from robobrain_ros.core.query import Answer, Query, Task
from robobrain_ros.errors import BadRequestError
from robobrain_ros.evaluation.rollouts import Rollout, true_score

SHARED = 0.5
"""Share of the errors' variance that all comparisons of a moment have in common, because they show the same images."""
QUANTUM = 5
"""Scores are multiples of this number of percent."""


class SimulatedScores:
    """Answers comparisons as a `core.brain.Brain` does, from the true progress of the images.

    :param sigma: standard deviation of the errors of a comparison, as a part of the task.
    :param seed: the same seed and the same images give the same errors.
    """

    def __init__(self, sigma: float, seed: int = 0) -> None:
        self._sigma, self._seed = sigma, seed
        self._images: dict[str, tuple[float, str]] = {}

    def add(self, image_id: str, progress: float, moment: str = "") -> None:
        """Add an image.

        :param moment: a unique name of the moment that the image shows. Empty: a reference, which is known without errors.
        """
        self._images[image_id] = (progress, moment)

    def add_rollouts(self, rollouts: Iterable[tuple[int, Rollout]]) -> Iterator[tuple[int, Rollout]]:
        """Yield seeds and rollouts, and add their images with the names of `progress.follow_all`."""
        for seed, rollout in rollouts:
            name = f"rollout {seed}"
            for index, frame in enumerate(rollout.frames):
                self.add(f"{name} {index}", frame.progress, f"{name} {index}" if index else "")
            self.add(f"{name} -1", 1.0)
            yield seed, rollout

    async def run(self, query: Query) -> Answer:
        """Answer a comparison.

        :raises BadRequestError: the query is not a comparison.
        """
        if query.task is not Task.PROGRESS:
            raise BadRequestError(f"Simulated scores do not answer the task {query.task.value}.")
        before, after = query.image_ids[2], query.image_ids[5]
        score = true_score(self._believed(before), self._believed(after))
        own = 100.0 * self._error(f"{before} to {after}", 1.0 - SHARED)
        return Answer(Task.PROGRESS, score=min(max(round((score + own) / QUANTUM) * QUANTUM, -100), 100))

    def _believed(self, image_id: str) -> float:
        progress, moment = self._images[image_id]
        return min(max(progress + self._error(moment, SHARED), 0.0), 1.0) if moment else progress

    def _error(self, name: str, share: float) -> float:
        return random.Random(f"{self._seed} {name}").gauss(0.0, self._sigma * math.sqrt(share))
