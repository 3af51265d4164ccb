"""Grasps of the simulated arm at the poses of ~/approach."""

import time
from collections.abc import Callable
from typing import Protocol

from rclpy.time import Time

from robobrain_ros.bounds.deadlines import CLIENT_GRACE
from robobrain_ros.core.poses import Source, StampedPose, Unavailable
from robobrain_ros.core.query import Defaults
from robobrain_ros.demo.grasping import Grasp, at_pose
from robobrain_ros.demo.robot import World
from robobrain_ros.errors import NoPoseError, OutcomeCode, outcome_code
from robobrain_ros.msg import ApproachPose
from robobrain_ros.ros.client import TaskClient, query_options
from robobrain_ros.ros.delivery import qos
from robobrain_ros.srv import Approach

_MOST_TRIES = 40
"""Most repetitions of a request until its answer is about an image that was taken after the request."""
_PAUSE = 0.1
_MOST_WITHOUT_DEPTH = 5
_NO_DEPTH = (
    "~/approach has no depth images, so the arm cannot grasp. Start the node with depth_topic:=/camera/depth (launch file), or"
    " with the parameter camera.use_depth: true. Or start this program with --grasp simulator, which needs no depth."
)
PASSING = (OutcomeCode.NO_IMAGE, OutcomeCode.STALE_IMAGE, OutcomeCode.BUSY, OutcomeCode.NOT_READY)
"""Outcomes for which a retry can succeed."""


class Request(Protocol):
    """Makes the request for an object's approach pose, without its options."""

    def __call__(self, world: World, name: str) -> Approach.Request:
        """Return the request for the object with this name."""
        ...


def by_name(world: World, name: str) -> Approach.Request:
    """Return a request in which the model finds the object by its name."""
    return Approach.Request(instruction=f"the {name}")


def by_true_box(world: World, name: str) -> Approach.Request:
    """Return a request with the object's true bounding box, which needs no model."""
    found = world.render().find(name)
    return Approach.Request(pixels=[float(side) for side in found.box] if found else [])


class ApproachGrasps:
    """Finds grasps at the poses of ~/approach. See `arm.GraspSource`.

    :param client: a node that spins while the arm waits. Its camera shows the world.
    :param request: makes the request for an object's approach pose.
    :param robobrain: name of the node robobrain.
    """

    def __init__(
        self,
        client: TaskClient,
        world: World,
        request: Request = by_name,
        *,
        robobrain: str = "robobrain",
        camera: str = "",
        timeout: float = Defaults.timeout,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._client, self._world, self._request = client, world, request
        self._camera, self._timeout, self._report = camera, timeout, report
        self._approach = client.create_client(Approach, f"{robobrain}/approach", qos_profile=qos.CLIENT)

    def find(self, name: str) -> Grasp | str:
        """See `arm.GraspSource`.

        :raises NoPoseError: the node has no depth images.
        """
        found = self._ask(name)
        if isinstance(found, str):
            return found
        if not found.graspable:
            return f"the gripper does not fit around the {name}"
        place = found.pose.pose.position
        direction = found.direction.replace("_", " ")
        frame = found.pose.header.frame_id
        self._report(f"  grasp {direction} at x {place.x:.3f}, y {place.y:.3f}, z {place.z:.3f} m in {frame}")
        return self._to_grasp(found)

    def _ask(self, name: str) -> ApproachPose | str:
        """Request the approach pose from an image that is taken from now on. Return the reason if there is none."""
        asked_at = self._client.get_clock().now()
        request = self._request(self._world, name)
        request.options = query_options(cameras=[self._camera] if self._camera else [], timeout=self._timeout)
        why, without_depth = "there was no new image of the table", 0
        for _ in range(_MOST_TRIES):
            end = time.monotonic() + self._timeout + CLIENT_GRACE
            future = self._approach.call_async(request)
            self._client.spin_until(future.done, max(end - time.monotonic(), 0.0))
            if not future.done():
                self._approach.remove_pending_request(future)
                return f"no approach pose of the {name} arrived in time"
            response = future.result()
            code, stamp = outcome_code(response.outcome.code), response.affordances.header.stamp
            if code not in PASSING and Time.from_msg(stamp, clock_type=asked_at.clock_type) >= asked_at:
                # The depth image of a single image can be lost on the way.
                without_depth += response.approach.reason == Unavailable.NO_DEPTH.name
                if without_depth >= _MOST_WITHOUT_DEPTH:
                    raise NoPoseError(_NO_DEPTH)
                if response.approach.reason == Unavailable.NO_DEPTH.name:
                    self._client.spin_until(lambda: False, _PAUSE)
                    continue
                if code is not OutcomeCode.OK:
                    return f"there is no approach pose of the {name} ({response.approach.reason or code.name})"
                return response.approach
            self._client.spin_until(lambda: False, _PAUSE)
        return why

    def _to_grasp(self, found: ApproachPose) -> Grasp:
        place, turn = found.pose.pose.position, found.pose.pose.orientation
        pose = StampedPose("", (0, 0), Source.BOX, (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))
        return at_pose(pose, found.opening, found.finger_depth, self._world.layout.camera)
