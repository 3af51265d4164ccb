"""Resample, smooth and check the trajectories of answers with the limits of the parameters and of robots_file."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.plans.request import Robot
from robobrain_ros.core.surfaces import DepthImage
from robobrain_ros.core.traces.checks import Trace, TraceLimits, TraceReport, View
from robobrain_ros.core.traces.distances import named_distances
from robobrain_ros.core.traces.followed import Followed, Shape, follow
from robobrain_ros.core.transforms import Transform
from robobrain_ros.errors import UnsafeTrajectoryError
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.transforms import TransformError, Transforms

NO_POSITIONS = "The waypoints have no positions, so the trajectory was not checked."
_MOST_QUOTED = 3
"""Number of issues, or of checks that were left out, in the message of an outcome."""


class Trajectories:
    """Makes the poses of trajectories, and checks them. Its coroutines run on the engine's loop without blocking it.

    :param robots: returns the robots of robots_file.
    """

    def __init__(self, parameters: Parameters, transforms: Transforms, robots: Callable[[], Sequence[Robot]]) -> None:
        self._parameters = parameters
        self._transforms = transforms
        self._robots = robots

    async def followed(self, positions: Positions, text: str, depth: DepthImage | None, end: float) -> Positions:
        """Return the positions of an answer with the poses of its trajectory and the findings about them.

        :param text: the instruction.
        :param depth: the depth image of the image's time.
        :param end: time of the loop until which the method waits for transforms.
        """
        if positions.waypoints is None or not np.isfinite(positions.waypoints.positions).any():
            return replace(positions, followed=Followed(TraceReport(unchecked=(NO_POSITIONS,))))
        limits, notes = self._limits()
        frame = plain_frame(positions.header.frame_id)
        wanted = {space.frame for space in (limits.workspace, limits.reach) if space is not None and space.frame != frame}
        transforms = {name: found for name in sorted(wanted) if (found := await self._find(name, frame, positions, end))}
        gripper = up = None
        if limits.start > 0.0:
            seen = await self._find(frame, plain_frame(self._parameters["trajectory_gripper_frame"]), positions, end)
            gripper = None if seen is None else np.array(seen.translation)
        up_frame = plain_frame(self._parameters["trajectory_up_frame"] or self._parameters["target_frame"])
        if up_frame and named_distances(text):
            seen = await self._find(frame, up_frame, positions, end)
            up = None if seen is None else (seen.apply(np.array([[0.0, 0.0, 1.0]])) - np.array(seen.translation))[0]
        trace = Trace(
            positions.waypoints.positions, frame, self._parameters["trajectory_duration"], gripper, up, instruction=text
        )
        view = None
        if depth is not None and positions.camera is not None:
            view = View(positions.camera, depth, positions.transform.inverse() if positions.transform else None)
        shape = Shape(
            self._parameters["trajectory_poses"],
            self._parameters["trajectory_pose_step"],
            self._parameters["trajectory_smoothing"],
        )
        # This runs in a thread, because long trajectories take milliseconds.
        followed = await asyncio.to_thread(follow, trace, limits, shape, view, transforms)
        return replace(positions, followed=replace(followed, report=_with_notes(followed.report, notes)))

    def check_strictly(self, positions: Positions | None) -> None:
        """Check the findings about a trajectory if ``strict_traces`` (parameter) is set.

        :param positions: positions of an answer with a trajectory.
        :raises UnsafeTrajectoryError: the trajectory has issues, or a check was left out.
        """
        if not self._parameters["strict_traces"]:
            return
        report = positions.followed.report if positions and positions.followed else TraceReport(unchecked=(NO_POSITIONS,))
        if report.issues:
            more = len(report.issues) - _MOST_QUOTED
            quoted = " ".join(issue.message for issue in report.issues[:_MOST_QUOTED])
            raise UnsafeTrajectoryError(
                f"{quoted}{f' There are {more} more issues.' if more > 0 else ''} The parameter strict_traces rejects such "
                "trajectories."
            )
        if report.unchecked:
            more = len(report.unchecked) - _MOST_QUOTED
            raise UnsafeTrajectoryError(
                f"{' '.join(report.unchecked[:_MOST_QUOTED])}{f' {more} more checks were left out.' if more > 0 else ''} The "
                "parameter strict_traces rejects trajectories that are not checked completely."
            )

    def needs_transforms(self) -> bool:
        """Return whether the checks use frames of tf2."""
        limits, _ = self._limits()
        frames = (self._parameters["trajectory_gripper_frame"], self._parameters["trajectory_up_frame"])
        return any((*frames, limits.workspace, limits.reach))

    def _limits(self) -> tuple[TraceLimits, list[str]]:
        """Return the limits, and sentences about limits that are unknown."""
        robot, notes = self._robot()
        return (
            TraceLimits(
                workspace=robot.workspace if robot else None,
                reach=robot.reach if robot else None,
                step=self._parameters["trajectory_max_step"],
                speed=self._parameters["trajectory_max_speed"],
                start=self._parameters["trajectory_max_start"] if self._parameters["trajectory_gripper_frame"] else 0.0,
                behind=self._parameters["trajectory_max_behind"],
            ),
            notes,
        )

    def _robot(self) -> tuple[Robot | None, list[str]]:
        """Return the robot whose workspace and reach limit trajectories, or None and a sentence if it is unknown."""
        name = self._parameters["trajectory_robot"]
        limited = [robot for robot in self._robots() if robot.workspace or robot.reach]
        if name:
            limited = [robot for robot in limited if robot.name == name]
            if not limited:
                return None, [f"robots_file has no robot {name!r} with a workspace or a reach, so they were not checked."]
        if len(limited) > 1:
            names = ", ".join(robot.name for robot in limited)
            return None, [
                f"Several robots have a workspace or a reach ({names}), so they were not checked. Set trajectory_robot to one of "
                "them."
            ]
        return (limited[0] if limited else None), []

    async def _find(self, target: str, source: str, positions: Positions, end: float) -> Transform | None:
        """Return the transform from ``source`` to ``target`` at the image's stamp, or None if it is unknown."""
        if target == source:
            return Transform((0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0))
        patience = max(end - asyncio.get_running_loop().time(), 0.0)
        try:
            return await self._transforms.wait(target, source, positions.header.stamp, patience)
        except TransformError:
            return None  # The report states which check was left out.


def _with_notes(report: TraceReport, notes: Iterable[str]) -> TraceReport:
    return replace(report, unchecked=(*notes, *report.unchecked))
