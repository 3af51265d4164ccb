"""The action ~/watch_task: compares new images of a robot's task with earlier ones until the task has succeeded or failed."""

import math
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from rclpy.task import Future
from sensor_msgs.msg import Image

from robobrain_ros.action import WatchTask
from robobrain_ros.core.progress import VIEWS, Perspective, ProgressTracker
from robobrain_ros.core.query import Answer, Task
from robobrain_ros.core.watching import TaskWatch, WatchLimits, WatchState
from robobrain_ros.errors import (
    BadRequestError,
    BusyError,
    CanceledError,
    EngineFailedError,
    OutcomeCode,
    RoboBrainError,
    StaleImageError,
)
from robobrain_ros.msg import Progress, QueryOptions
from robobrain_ros.ros.cameras.cameras import given_frame
from robobrain_ros.ros.cameras.images import Frame
from robobrain_ros.ros.clock import Jump
from robobrain_ros.ros.delivery.boundary import GuardedNode
from robobrain_ros.ros.goals import Goal
from robobrain_ros.ros.limits import LEAST_RATE, LEAST_TIMEOUT, MOST_RATE, MOST_WATCH, MOST_WATCHES
from robobrain_ros.ros.messages.conversions import to_estimate, to_outcome
from robobrain_ros.ros.messages.unknown import unknown
from robobrain_ros.ros.requests.request import Comparison, TaskRequest, check_options, check_text, check_times
from robobrain_ros.ros.requests.requests import Requests
from robobrain_ros.ros.requests.result import Result
from robobrain_ros.ros.requests.selection import ImageSelection
from robobrain_ros.ros.requests.tickets import Ticket

DEFAULT_RATE = 1.0
DEFAULT_TIMEOUT = 600.0
_DEFAULTS = WatchLimits()
_MOST_FAILURES = 5
"""Number of successive failed estimates after which a watch ends."""
_PASSING = (OutcomeCode.UNPARSABLE_ANSWER, OutcomeCode.TIMEOUT, OutcomeCode.BUSY)
"""Outcomes of a comparison after which the next one can succeed."""
_STATES = {
    WatchState.SUCCEEDED: WatchTask.Result.SUCCEEDED,
    WatchState.REGRESSED: WatchTask.Result.REGRESSED,
    WatchState.STALLED: WatchTask.Result.STALLED,
}
_GREY = Image(height=28, width=28, encoding="rgb8", step=84, data=array("B", bytes([128]) * 84 * 28))
"""Stands in for the reference of the end if a goal has none."""


@dataclass(frozen=True)
class _Settings:
    """The checked fields of a goal. Times are in seconds."""

    task: str
    options: QueryOptions
    limits: WatchLimits
    period: float
    timeout: float

    @classmethod
    def of(cls, goal: WatchTask.Goal) -> "_Settings":
        """Return the settings of a goal.

        :raises BadRequestError: a field is invalid.
        """
        check_text(goal.task, "task")
        check_options(goal.options)
        check_times(goal.options, Task.PROGRESS)
        if goal.options.images:
            raise BadRequestError("options.images contains images. Leave it empty: a watch uses the images of cameras.")
        if len(goal.options.cameras) > len(VIEWS):
            raise BadRequestError(
                f"options.cameras has {len(goal.options.cameras)} names. At most {len(VIEWS)} are allowed: {', '.join(VIEWS)}."
            )
        rate = goal.rate or DEFAULT_RATE
        if not LEAST_RATE <= rate <= MOST_RATE:
            raise BadRequestError(f"rate is {goal.rate:g} Hz. It must be 0 (the default) or {LEAST_RATE:g} to {MOST_RATE:g} Hz.")
        timeout = goal.timeout or DEFAULT_TIMEOUT
        if not LEAST_TIMEOUT <= timeout <= MOST_WATCH:
            raise BadRequestError(
                f"timeout is {goal.timeout:g} s. It must be 0 (the default) or {LEAST_TIMEOUT:g} to {MOST_WATCH:g} s."
            )
        limits = WatchLimits(
            goal.success or _DEFAULTS.success,
            goal.regression or _DEFAULTS.regression,
            goal.stall,
            goal.confirmations or _DEFAULTS.confirmations,
            goal.regression_confirmations or _DEFAULTS.regression_confirmations,
        )
        if limits.stall >= timeout:
            raise BadRequestError(f"stall is {limits.stall:g} s. It must be below timeout ({timeout:g} s).")
        return cls(goal.task, goal.options, limits, 1.0 / rate, timeout)


@dataclass(eq=False)
class _Watch:
    """A goal in progress. Times are values of ``time.monotonic()``.

    :param start: reference of the start.
    :param end: reference of the end, or a grey image if the goal has none.
    :param compares_backward: whether the goal has a reference of the end.
    :param first: views of the first moment.
    :param previous: views of the moment of the newest estimate.
    """

    settings: _Settings
    began: float
    first: Sequence[Frame]
    start: Frame
    end: Frame
    compares_backward: bool
    previous: Sequence[Frame]
    tracker: ProgressTracker = field(default_factory=ProgressTracker)
    newest: Progress = field(default_factory=partial(unknown, Progress))
    estimates: int = 0
    skipped: int = 0
    failed: int = 0
    failures_in_a_row: int = 0
    ended_by: RoboBrainError | None = None
    tickets: list[Ticket[Answer]] = field(default_factory=list)
    wait: Future | None = None
    """The wait for the next estimate. Setting its result ends the wait."""

    def __post_init__(self) -> None:
        self.progress = TaskWatch(self.settings.limits, self.began)
        self.due = self.began + self.settings.period

    @property
    def deadline(self) -> float:
        """The time at which the watch ends."""
        return self.began + self.settings.timeout

    @property
    def over_at(self) -> float:
        """The time at which the watch ends without a new estimate: its deadline, or the time at which the task stalls."""
        return min(self.deadline, self.progress.stalls_at)

    def wake(self) -> None:
        """End the wait for the next estimate, if there is one."""
        if self.wait is not None and not self.wait.done():
            self.wait.set_result(None)

    def wake_if_due(self, now: float) -> None:
        """End the wait for an image. An estimate that is not due does not need the image."""
        if now >= self.due:
            self.wake()

    def end_with(self, error: RoboBrainError) -> None:
        """End the watch with this error, and cancel its comparisons."""
        self.ended_by = self.ended_by or error
        self.wake()
        for ticket in self.tickets:
            ticket.cancel(error.message)

    def skip_missed(self, now: float) -> None:
        """Set the time of the next estimate, and count the estimates that were due until now."""
        missed = max(math.floor((now - self.due) / self.settings.period), 0)
        self.skipped += missed
        self.due += (missed + 1) * self.settings.period


class Watching:
    """Executes the goals of ~/watch_task. All methods are called in the executor.

    :param publish: publishes an estimate on ~/progress.
    """

    def __init__(
        self, node: GuardedNode, requests: Requests, selection: ImageSelection, publish: Callable[[Progress], None]
    ) -> None:
        self._node, self._requests, self._selection, self._publish = node, requests, selection, publish
        self._watches: set[_Watch] = set()

    def end_older(self, jump: Jump) -> None:
        """End the watches of cameras whose time jumped, because earlier images are no longer comparable."""
        for watch in list(self._watches):
            if any(jump.concerns(frame.camera) for frame in watch.first):
                watch.end_with(StaleImageError(f"While the node watched the task, {jump}. Send the goal again."))

    def end_all(self, reason: str) -> None:
        """End all watches with CANCELED."""
        for watch in list(self._watches):
            watch.end_with(CanceledError(reason))

    def on_frame(self, frame: Frame) -> None:
        """Wake the watches that wait for an image of this front camera."""
        now = time.monotonic()
        for watch in self._watches:
            if watch.first[0].camera == frame.camera:
                watch.wake_if_due(now)

    def on_timer(self) -> None:
        """Let the watches that wait for an image check the age of the newest one; called each second."""
        now = time.monotonic()
        for watch in self._watches:
            watch.wake_if_due(now)

    async def run(self, goal: Goal) -> tuple[WatchTask.Result, bool]:
        """Execute a goal. Return its result, and whether the task has succeeded."""
        watch: _Watch | None = None
        result = unknown(WatchTask.Result)
        try:
            watch = self._begin(goal)
            result.state = await self._follow(watch, goal)
            result.outcome = to_outcome(None)
        except RoboBrainError as error:
            result.outcome = to_outcome(error)
        finally:
            if watch is not None:
                self._watches.discard(watch)
        if watch is not None:
            result.estimates, result.skipped, result.failed = watch.estimates, watch.skipped, watch.failed
            result.progress = watch.newest
            if watch.estimates:
                result.peak, result.final = watch.progress.peak, watch.progress.final
        return result, result.state == WatchTask.Result.SUCCEEDED

    def _begin(self, goal: Goal) -> _Watch:
        """Check a goal, and take the first images.

        :raises RoboBrainError: the goal is rejected.
        """
        if goal.handle.is_cancel_requested:
            raise CanceledError("The goal was canceled.")
        request = goal.handle.request
        settings = _Settings.of(request)
        self._requests.check_accepts(Task.PROGRESS)
        if len(self._watches) >= MOST_WATCHES:
            raise BusyError(f"The node watches {MOST_WATCHES} tasks already, which is the maximum. Retry when one has ended.")
        first = self._selection.views(settings.options)
        start = given_frame(request.reference_start, "reference_start") if request.reference_start.data else first[0]
        has_end = bool(request.reference_end.data)
        end = given_frame(request.reference_end if has_end else _GREY, "reference_end")
        watch = _Watch(settings, time.monotonic(), first, start, end, has_end, first)
        goal.cancel = lambda reason: watch.end_with(CanceledError(reason))
        self._watches.add(watch)
        return watch

    async def _follow(self, watch: _Watch, goal: Goal) -> int:
        """Estimate the progress until the watch ends. Return the state of the result.

        :raises RoboBrainError: the watch ended without a decision.
        """
        while True:
            views = await self._next_views(watch)
            if views is None:
                stalled = watch.progress.at(time.monotonic()) is WatchState.STALLED
                return int(WatchTask.Result.STALLED if stalled else WatchTask.Result.TIMED_OUT)
            state = await self._estimate(watch, views, goal)
            watch.skip_missed(time.monotonic())
            if state in _STATES:
                return int(_STATES[state])

    async def _next_views(self, watch: _Watch) -> Sequence[Frame] | None:
        """Wait until the next estimate is due and a new front image has arrived. Return None if the watch is over before.

        :raises RoboBrainError: the watch was ended, or a camera has no fresh image.
        """
        while True:
            if watch.ended_by is not None:
                raise watch.ended_by
            now = time.monotonic()
            if now >= watch.over_at:
                return None
            if now >= watch.due:
                views = self._selection.views(watch.settings.options)
                if views[0].sequence > watch.previous[0].sequence:
                    return views
            # `wake` ends this wait at a new image, if the estimate is due, and at the end of the watch.
            watch.wait = self._node.pacing.after(min(watch.over_at, watch.due if watch.due > now else math.inf) - now)
            await watch.wait

    async def _estimate(self, watch: _Watch, views: Sequence[Frame], goal: Goal) -> WatchState:
        """Compare new images with earlier ones, and publish the progress.

        :raises RoboBrainError: the watch was ended, or the comparisons fail repeatedly.
        """
        results = await self._compare(watch, views)
        if watch.ended_by is not None:
            raise watch.ended_by
        if time.monotonic() >= watch.deadline:
            return WatchState.RUNNING
        scores = {perspective: score for perspective, result in results.items() if (score := _score(result)) is not None}
        if not scores:
            self._note_failure(watch, [result.error for result in results.values() if result.error is not None])
            return WatchState.RUNNING
        if watch.previous is watch.first and Perspective.FORWARD in scores:
            scores[Perspective.INCREMENTAL] = scores[Perspective.FORWARD]  # Both compare with the first moment.
        watch.failures_in_a_row = 0
        watch.estimates += 1
        watch.previous = views
        result = next(result for perspective, result in results.items() if perspective in scores)
        watch.newest = to_estimate(result.origin, watch.tracker.update(scores), result.message.report)
        self._publish(watch.newest)
        if goal.handle.is_active:
            goal.handle.publish_feedback(WatchTask.Feedback(progress=watch.newest))
        return watch.progress.add(time.monotonic(), watch.tracker.progress)

    def _note_failure(self, watch: _Watch, errors: Sequence[RoboBrainError]) -> None:
        """Count an estimate without a score.

        :raises RoboBrainError: the next estimate cannot succeed either, or too many have failed in a row.
        """
        watch.failed += 1
        watch.failures_in_a_row += 1
        lasting = next((error for error in errors if error.code not in _PASSING), None)
        if lasting is not None:
            raise lasting
        if watch.failures_in_a_row >= _MOST_FAILURES:
            raise errors[0] if errors else EngineFailedError("The comparisons gave no score.")

    async def _compare(self, watch: _Watch, views: Sequence[Frame]) -> Mapping[Perspective, Result]:
        """Send the comparisons of one estimate at the same time, and wait for all results."""
        executor = self._node.executor
        if executor is None:
            raise CanceledError("The node shuts down.")
        tasks = {}
        options = QueryOptions(
            think=watch.settings.options.think,
            max_tokens=watch.settings.options.max_tokens,
            timeout=self._time_left(watch),
        )
        for perspective, before in self._moments(watch).items():
            ticket = self._requests.ticket()
            watch.tickets.append(ticket)
            comparison = Comparison(watch.start, watch.end, before, views, publish=False)
            request = TaskRequest(Task.PROGRESS.value, watch.settings.task, options, comparison=comparison, background=True)
            tasks[perspective] = executor.create_task(self._requests.answer, request, ticket)
        try:
            return {perspective: await task for perspective, task in tasks.items()}
        finally:
            watch.tickets.clear()

    def _time_left(self, watch: _Watch) -> float:
        """Return the timeout of a comparison: it ends before the watch."""
        left = max(watch.deadline - time.monotonic(), LEAST_TIMEOUT)
        return min(watch.settings.options.timeout or self._requests.default_timeout, left)

    def _moments(self, watch: _Watch) -> dict[Perspective, Sequence[Frame]]:
        """Return the views of the earlier moment for each perspective."""
        moments: dict[Perspective, Sequence[Frame]] = {}
        if watch.previous is not watch.first:
            moments[Perspective.INCREMENTAL] = watch.previous
        moments[Perspective.FORWARD] = watch.first
        if watch.compares_backward:
            moments[Perspective.BACKWARD] = [watch.end] * len(watch.first)
        return moments


def _score(result: Result) -> int | None:
    return result.answer.score if result.answer is not None and result.error is None else None
