"""Requests whose answers are kept in a file, such as those about the tabletop scenes."""

import hashlib
from dataclasses import dataclass

from robobrain_ros.cli.answer_json import Ended
from robobrain_ros.cli.answer_log import AnswerLog
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.profiles import Profile
from robobrain_ros.core.query import Answer, Query
from robobrain_ros.demo import DemoError
from robobrain_ros.errors import EngineFailedError, RoboBrainError


@dataclass(frozen=True)
class KeptRequests:
    """Answers queries from a file, and otherwise with a brain. Queries need images.

    :param log: the file. None: nothing is kept.
    :param column: name of the engine in the file.
    """

    brain: Brain
    log: AnswerLog | None
    column: str

    @property
    def profile(self) -> Profile:
        """The profile of the brain."""
        return self.brain.profile

    async def run(self, query: Query) -> Answer:
        """See `Brain.run`.

        :raises DemoError: the engine died, so that there is no score; or the disk is full.
        """
        request = "" if self.log is None else self._digest(query)
        known = None if self.log is None else self.log.end_of(request)
        if known is not None:
            return known.again()
        try:
            end: Answer | RoboBrainError = await self.brain.run(query)
        except EngineFailedError as error:
            raise DemoError(error.message) from error
        except RoboBrainError as error:
            end = error
        ended = Ended.of(end)
        if self.log is not None and ended is not None:
            self.log.add_end(request, ended)
        if isinstance(end, RoboBrainError):
            raise end
        return end

    def _digest(self, query: Query) -> str:
        """Return a short hash of everything that changes the answer."""
        parts = (self.column, query.think, query.task.value, query.text, query.plan, [image.shape for image in query.images])
        found = hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace"))
        for image in query.images:
            found.update(image.tobytes())
        return found.hexdigest()[:16]
