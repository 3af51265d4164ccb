"""An arm whose steps are checked by estimates of their progress from camera images, and not by the arm or the simulator."""

from collections.abc import Callable, Generator
from typing import Protocol

from robobrain_ros.core.plans.request import Robot
from robobrain_ros.core.query import PlanStep, RgbImage
from robobrain_ros.core.step_watch import StepLimits, StepState, StepWatch
from robobrain_ros.demo.robot import MOVED, SLIPPED
from robobrain_ros.demo.simulator import Step
from robobrain_ros.demo.staged_arm import StagedArm
from robobrain_ros.demo.world import render_layout


class ProgressSource(Protocol):
    """Estimates the progress of one step after the other from images of the arm's camera."""

    def begin(self, step: str, goal: RgbImage) -> None:
        """Begin to estimate the progress of a step, before its first movement.

        :param goal: image of the table after the step.
        """
        ...

    def progress(self) -> float:
        """Return the progress in an image that was taken after the last movement, 0 to 1."""
        ...

    def end(self) -> None:
        """Stop estimating the progress of the step, whether it succeeded or not."""
        ...


def watch_movements(arm: StagedArm, limits: StepLimits) -> Generator[None, float, StepWatch]:
    """Execute a step that has begun, and decide at each moment at which the arm waits. After a failure, the arm retreats.

    The generator yields None when it needs an estimate of the progress. Send it the estimate. It returns the watch of the step.
    """
    watch = StepWatch(limits)
    for at_end in arm.movements():
        while watch.add((yield), at_end) is StepState.UNCLEAR:
            pass
        if watch.state is not StepState.RUNNING:
            break
    if watch.state.failed:
        arm.retreat()
    return watch


def observation(step: PlanStep, watch: StepWatch) -> str:
    """Return what a plan request reports about a step. Empty: the step has succeeded.

    The demo model was trained with these two sentences.
    """
    if not watch.state.failed:
        return ""
    text = SLIPPED if watch.state is StepState.REGRESSED else MOVED
    return text.format(name=Step.read(step.skill, step.arguments).object)


class WatchedArm:
    """An `arm.Arm` whose steps succeed or fail according to a `ProgressSource`.

    :param report: called with a line about each step.
    """

    def __init__(
        self,
        arm: StagedArm,
        source: ProgressSource,
        *,
        limits: StepLimits | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._arm, self._source, self._limits, self._report = arm, source, limits or StepLimits(), report

    def describe(self) -> Robot:
        """See `arm.Arm`."""
        return self._arm.describe()

    def execute(self, step: PlanStep) -> str:
        """See `arm.Arm`."""
        if rejected := self._arm.begin(step):
            return rejected
        self._source.begin(step.text, render_layout(self._arm.goal())[0].image)
        try:
            moving = watch_movements(self._arm, self._limits)
            next(moving)
            while True:
                self._arm.refresh()
                moving.send(self._source.progress())
        except StopIteration as ended:
            watch: StepWatch = ended.value
        finally:
            self._source.end()
        self._report(f"  {step.text}: {watch.state.value}, because {watch.why}")
        return observation(step, watch)
