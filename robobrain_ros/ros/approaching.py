"""The service ~/approach: the approach pose of an object that an instruction names, or of pixels of the newest image."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from robobrain_ros.core.approach import ApproachPose, Direction
from robobrain_ros.core.messages.frames import plain_frame
from robobrain_ros.core.messages.positions import Positions
from robobrain_ros.core.poses import FloorPlane, Source, StampedPose, Unavailable, Uncertainty, floor_pose, stand_off
from robobrain_ros.core.query import Answer, Box, Point, Task
from robobrain_ros.core.transforms import Vector
from robobrain_ros.errors import BadRequestError, NoPoseError, RoboBrainError
from robobrain_ros.msg import Affordances
from robobrain_ros.msg import ApproachPose as ApproachPoseMessage
from robobrain_ros.ros.limits import MOST_APPROACH, MOST_FLOOR_DISTANCE
from robobrain_ros.ros.messages.conversions import to_outcome
from robobrain_ros.ros.messages.poses import to_approach_pose
from robobrain_ros.ros.messages.unknown import unknown
from robobrain_ros.ros.parameters.declared import Parameters
from robobrain_ros.ros.requests.request import TaskRequest, check_options
from robobrain_ros.ros.requests.requests import Requests
from robobrain_ros.ros.requests.tickets import Ticket
from robobrain_ros.srv import Approach

TASKS_WITH_APPROACH = (Task.GROUND, Task.POINT, Task.AFFORDANCE)
"""Tasks that can find the object. The first one is the default."""
_FLOOR_DEVIATION = 0.02
"""Standard deviation in metres of the position of an object without an approach pose, for the pose on the floor."""


class Approaching:
    """Answers requests of ~/approach. Called in the executor."""

    def __init__(self, parameters: Parameters, requests: Requests) -> None:
        self._parameters = parameters
        self._requests = requests

    async def answer(self, request: Approach.Request, response: Approach.Response, ticket: Ticket[Any]) -> Approach.Response:
        """Fill the response to a request. Never raises a `RoboBrainError`."""
        response.approach, response.affordances = unknown(ApproachPoseMessage), unknown(Affordances)
        try:
            response.outcome = to_outcome(None, await self._answer(request, response, ticket))
        except RoboBrainError as error:
            response.outcome = to_outcome(error)
        return response

    async def _answer(self, request: Approach.Request, response: Approach.Response, ticket: Ticket[Any]) -> str:
        """Fill the fields of the response except the outcome, and return a note about it.

        :raises RoboBrainError: there is no pose.
        """
        _check(request)
        direction = Direction(request.direction or Direction.AUTOMATIC)
        if request.instruction:
            wanted = TaskRequest(
                request.task or TASKS_WITH_APPROACH[0].value, request.instruction, request.options, direction=direction
            )
            result = await self._requests.answer(wanted, ticket)
            if isinstance(result.message, Affordances):
                response.affordances = result.message
            if result.error is not None:
                raise result.error
            answer, positions = result.answer, result.positions
        else:
            answer = _pixels(request.pixels)
            origin, positions = await self._requests.locate(answer, request.options, ticket, direction)
            found = response.affordances
            found.header, found.camera, found.task = positions.header, origin.camera, answer.task.value
            found.image_width, found.image_height = origin.width, origin.height
        if answer is None or positions is None or not positions.approaches:
            raise NoPoseError("The answer contains no point and no bounding box with a pose. /rosout may state the reason.")
        index = next((n for n, each in enumerate(positions.approaches) if each.pose.available), 0)
        approach = positions.approaches[index]
        (before,) = stand_off(approach.pose, [request.distance or self._parameters["approach_distance"]])
        floor = self._on_floor(positions, index, approach, request.floor_distance) if request.floor_distance else None
        label = answer.targets[index].label
        response.approach = to_approach_pose(approach, before, floor, label)
        if approach.pose.reason is not None and (floor is None or not floor.available):
            raise NoPoseError(_sentence(approach.pose.reason, floor, positions.note))
        return positions.note

    def _on_floor(self, positions: Positions, index: int, approach: ApproachPose, distance: float) -> StampedPose:
        """Return the pose on the floor that faces a part of the answer. It needs only the position of the part."""
        pose = approach.pose
        target = plain_frame(self._parameters["target_frame"])
        if not target:
            return replace(pose, source=Source.FLOOR).without(Unavailable.NO_FLOOR)
        place = _place(positions, index)
        if place is not None and plain_frame(positions.header.frame_id) != target:
            # Without the transform, the positions stay in the camera's frame, whatever the reason of the approach pose is.
            return replace(pose, source=Source.FLOOR).without(Unavailable.NO_TRANSFORM)
        if pose.reason is not None and place is not None:
            turn = (0.0, 0.0, 0.0, 1.0)
            uncertainty = Uncertainty(_FLOOR_DEVIATION, math.pi)
            pose = replace(pose, position=place, orientation=turn, uncertainty=uncertainty, reason=None)
        camera: Vector = (0.0, 0.0, 0.0)
        if positions.transform is not None:
            camera = positions.transform.translation
        return floor_pose(pose, FloorPlane(), distance, camera)


def _place(positions: Positions, index: int) -> Vector | None:
    """Return the position of a part of the answer in metres, or None if it is unknown."""
    points = positions.points.positions if positions.points else np.empty((0, 3))
    boxes = positions.boxes.positions if positions.boxes else np.empty((0, 3))
    places = np.concatenate((points, boxes))
    if index >= len(places) or not np.isfinite(places[index]).all():
        return None
    x, y, z = places[index].tolist()
    return x, y, z


def _sentence(reason: Unavailable, floor: StampedPose | None, note: str) -> str:
    """Return the message of an outcome without a pose."""
    sentence = f"There is no approach pose: {reason.value} ({reason.name})."
    if floor is not None and floor.reason is not None and floor.reason is not reason:
        sentence += f" There is no floor_pose: {floor.reason.value} ({floor.reason.name})."
    if reason is Unavailable.NO_DEPTH:
        sentence += " Set the parameter <camera>.use_depth to true, and check the depth topic."
    return f"{sentence} {note}".strip()


def _check(request: Approach.Request) -> None:
    """Check the fields of a request.

    :raises BadRequestError: a field is invalid, or the fields contradict each other.
    """
    check_options(request.options)
    if bool(request.instruction) == bool(len(request.pixels)):
        raise BadRequestError("Set either instruction or pixels, and leave the other one empty.")
    if request.options.images:
        raise BadRequestError("options.images contains images. Leave it empty: depth belongs to the images of cameras.")
    names = [task.value for task in TASKS_WITH_APPROACH]
    if request.task and request.task not in names:
        raise BadRequestError(f"task is {request.task[:100]!r}; it must be empty or one of {', '.join(names)}.")
    directions = [direction.value for direction in Direction]
    if request.direction and request.direction not in directions:
        raise BadRequestError(f"direction is {request.direction[:100]!r}; it must be empty or one of {', '.join(directions)}.")
    if len(request.pixels) not in (0, 2, 4):
        raise BadRequestError(
            f"pixels has {len(request.pixels)} numbers; it must have 2, [u, v], or 4, [u_min, v_min, u_max, v_max]."
        )
    if not all(map(math.isfinite, request.pixels)):
        raise BadRequestError("pixels contains NaN or infinity. Set pixels of the camera's image.")
    for name, most in (("distance", MOST_APPROACH), ("floor_distance", MOST_FLOOR_DISTANCE)):
        value = getattr(request, name)
        if not 0.0 <= value <= most:
            raise BadRequestError(f"{name} is {value:g}; it must be 0 to {most:g} m.")


def _pixels(pixels: Sequence[float]) -> Answer:
    """Return the pixels of a request as the answer of a task."""
    if len(pixels) == 2:
        u, v = map(float, pixels)
        return Answer(Task.POINT, points=(Point(u, v),))
    u_min, v_min, u_max, v_max = map(float, pixels)
    return Answer(Task.GROUND, boxes=(Box(u_min, v_min, u_max, v_max),))
