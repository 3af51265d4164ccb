"""Try FlagGems' operators right after loading, so that a failing operator is found before the first request."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import numpy as np

from robobrain_ros.engine.base import Constraint, Generation
from robobrain_ros.engine.embedded.generation import VllmStream
from robobrain_ros.engine.flagos.ledger import Failure
from robobrain_ros.engine.flagos.recovery import find_culprit
from robobrain_ros.engine.flagos.session import Session
from robobrain_ros.errors import EngineFailedError

DID_NOT_START = "the engine did not start"
ENDED_BY_TRIAL = "the engine died during the first answers"
NO_FIRST_ANSWER = "the engine could not complete the first answers"

_IMAGE_SIDE, _TOKENS = 448, 16
"""Side of the images in pixels, and maximum tokens of the answers."""
_CONSTRAINTS = (None, Constraint(regex=r"\[\[[0-9]{1,3}, [0-9]{1,3}\]\]"))
"""Constraints of the answers. Only an answer with a constraint reveals an operator that permits a forbidden token."""


class OperatorTrial:
    """Generates a few tokens about an image with the engine's current operators.

    :param use: selects the operators of the engine.
    """

    def __init__(self, stream: VllmStream, use: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        self._stream = stream
        self._cell = stream.prompts.checkpoint.cell or 1
        self._use = use

    async def run(self) -> None:
        """Generate the answers.

        :raises EngineFailedError: an answer ended with an error.
        """
        side = _IMAGE_SIDE // self._cell * self._cell
        for constraint in _CONSTRAINTS:
            # A new image each time, because operators do not run for cached images.
            image = np.random.default_rng().integers(0, 256, (side, side, 3), np.uint8)
            name = f"flagos-{uuid.uuid4().hex}"
            generation = Generation(name, "What is in the image?", [image], _TOKENS, constraint=constraint)
            # The trial does not retry as ordinary requests do. A retry would hide an operator that fails sometimes.
            async with aclosing(self._stream.once(generation, name)) as stream:
                async for delta in stream:
                    if delta.finish_reason == "error":
                        raise EngineFailedError("One of the first answers ended with an error.")

    async def find_failure(self, session: Session, time_limit: float) -> Failure | None:
        """Find the operator that failed in an engine that is still alive, or None if FlagGems was not active.

        :param time_limit: seconds.
        """
        try:
            operator = await asyncio.wait_for(find_culprit(session.called, self._fails_with), time_limit)
        except (EngineFailedError, asyncio.TimeoutError):
            return session.failure(ENDED_BY_TRIAL)
        return Failure(operator, NO_FIRST_ANSWER)

    async def _fails_with(self, names: Sequence[str]) -> bool:
        """Return whether the trial fails with these operators alone.

        :raises EngineFailedError: the engine died.
        """
        await self._use(names)
        try:
            await self.run()
        except EngineFailedError:
            return True
        return False
