"""Convert messages to the core's answers; for clients. The counterpart of `conversions`."""

import math
from dataclasses import fields, replace

from robobrain_ros.core.progress import FULL_SCORE
from robobrain_ros.core.query import Answer, Box, PlanStep, Point, Report
from robobrain_ros.msg import Affordances, InferenceReport, Plan, Progress, TextAnswer, Trajectory
from robobrain_ros.ros.messages.plans import VERDICTS


def read_affordances(answer: Answer, message: Affordances) -> Answer:
    """Add the points and bounding boxes of a message, in pixels of the camera's own image."""
    return replace(
        answer,
        points=tuple(Point(point.u, point.v, clamped=point.clamped, label=point.label) for point in message.points),
        boxes=tuple(Box(area.u_min, area.v_min, area.u_max, area.v_max, area.clamped, area.label) for area in message.areas),
    )


def read_trajectory(answer: Answer, message: Trajectory) -> Answer:
    """Add the waypoints of a message: pixels of the camera's own image, and the model's own depth in metres."""
    waypoints = (
        Point(waypoint.u, waypoint.v, None if math.isnan(waypoint.depth) else waypoint.depth, waypoint.clamped)
        for waypoint in message.waypoints
    )
    return replace(answer, waypoints=tuple(waypoints))


def read_plan(answer: Answer, message: Plan) -> Answer:
    """Add the steps, the verdict and the reasoning of a message."""
    steps = (PlanStep(step.order, step.text, step.robot, step.skill, step.arguments) for step in message.steps)
    verdict = next(verdict for verdict, number in VERDICTS.items() if number == message.verdict)
    return replace(answer, steps=tuple(steps), reasoning=message.reasoning, verdict=verdict)


def read_text_answer(answer: Answer, message: TextAnswer) -> Answer:
    """Replace the text by that of a message."""
    return replace(answer, text=message.text)


def read_progress(answer: Answer, message: Progress) -> Answer:
    """Add the score of a message."""
    return replace(answer, score=None if math.isnan(message.change) else round(message.change * FULL_SCORE))


def read_report(message: InferenceReport) -> Report:
    """Return the report of a message."""
    differing = ("flagos_operators", "model_image_sizes", "stamps")
    same = {field.name: getattr(message, field.name) for field in fields(Report) if field.name not in differing}
    size = (message.model_image_width, message.model_image_height)
    return Report(
        **same,
        flagos_operators=tuple(message.flagos_operators),
        model_image_sizes=[size] if all(size) else [],
        stamps=[(stamp.sec, stamp.nanosec) for stamp in message.stamps],
    )
