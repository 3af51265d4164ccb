"""An arm of the simulated table that grasps at the poses of ~/approach."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from rclpy.time import Time

from robobrain_ros.bounds.deadlines import CLIENT_GRACE
from robobrain_ros.core.poses import Source, StampedPose, Unavailable
from robobrain_ros.core.query import Defaults, PlanStep
from robobrain_ros.demo.arm import SimulatedArm
from robobrain_ros.demo.grasping import Grasp, at_pose, fault_of
from robobrain_ros.demo.robot import World
from robobrain_ros.errors import NoPoseError, OutcomeCode
from robobrain_ros.msg import ApproachPose
from robobrain_ros.ros.client import TaskClient, query_options
from robobrain_ros.ros.delivery import qos
from robobrain_ros.srv import Approach

_MOST_TRIES = 40
"""Most repetitions of a request until its answer is about an image that was taken after the last step."""
_PAUSE = 0.1
_MOST_WITHOUT_DEPTH = 5
_NO_DEPTH = (
    "~/approach has no depth images, so the arm cannot grasp. Start the node with depth_topic:=/camera/depth (launch file), or"
    " with the parameter camera.use_depth: true. Or start this program with --grasp simulator, which needs no depth."
)
NEWEST = (OutcomeCode.NO_IMAGE, OutcomeCode.STALE_IMAGE, OutcomeCode.BUSY, OutcomeCode.NOT_READY)
"""Outcomes for which a retry can succeed."""


class Request(Protocol):
    """Makes the request of an object's approach pose, without its options."""

    def __call__(self, world: World, name: str) -> Approach.Request:
        """Return the request for the object with this name."""
        ...


def by_name(world: World, name: str) -> Approach.Request:
    """Return the request by which the model finds the object."""
    return Approach.Request(instruction=f"the {name}")


def by_true_box(world: World, name: str) -> Approach.Request:
    """Return the request with the object's true bounding box, which needs no model."""
    found = world.render().find(name)
    return Approach.Request(pixels=[float(side) for side in found.box] if found else [])


class GraspingArm(SimulatedArm):
    """A simulated arm that holds an object only if its fingers close on the object at the pose of ~/approach.

    :param client: a node that spins while the arm waits. Its camera shows the world.
    :param request: makes the request of an object's approach pose.
    :param robobrain: name of the node robobrain.
    :param troubles: see `SimulatedArm`.
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
        troubles: Iterable[str] = (),
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        super().__init__(world, troubles)
        self._client, self._request, self._camera, self._timeout, self._tell = client, request, camera, timeout, tell
        self._approach = client.create_client(Approach, f"{robobrain}/approach", qos_profile=qos.CLIENT)
        self._changed_at = client.get_clock().now()

    def execute(self, step: PlanStep) -> str:
        """See `Arm`."""
        observation = super().execute(step)
        self._changed_at = self._client.get_clock().now()
        return observation

    def reach(self, name: str) -> str:
        """Return why the arm does not hold the object at its approach pose, or an empty string."""
        found = self._ask(name)
        if isinstance(found, str):
            return found
        if not found.graspable:
            return f"the gripper does not fit around the {name}"
        self._tell(f"  grasp ({found.direction}) at {found.pose.pose.position}")
        return fault_of(self.world.layout, name, self._to_grasp(found))

    def _ask(self, name: str) -> ApproachPose | str:
        """Request the approach pose from an image that was taken after the last step. Return the reason if there is none.

        :raises NoPoseError: the node has no depth images.
        """
        request = self._request(self.world, name)
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
            code, stamp = OutcomeCode(response.outcome.code), response.affordances.header.stamp
            if code not in NEWEST and Time.from_msg(stamp, clock_type=self._changed_at.clock_type) >= self._changed_at:
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
        return at_pose(pose, found.opening, found.finger_depth, self.world.layout.camera)
