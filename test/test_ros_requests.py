"""Requests to the node over DDS: exactly one answer each, with the right outcome."""

import math

import pytest
from builtin_interfaces.msg import Time
from ros_rig import Rig, image_message, now, scripted

from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.srv import Ask, Locate, MakePlan, PredictTrajectory


def point(it: Rig, instruction: str = "the red mug", **options: object) -> Locate.Response:
    return it.call(Locate, "point", Locate.Request(instruction=instruction, options=QueryOptions(**options)))


def test_point_answers_in_the_pixels_and_with_the_header_of_the_cameras_picture() -> None:
    stamp = Time(sec=now().sec, nanosec=123456789)
    with scripted("[(56, 28), (9999, 28)]", max_image_age=0.0) as (it, engine):
        message = image_message(width=640, height=480, stamp=stamp)
        it.show(message)
        response = point(it)
        fitted = engine.generations[0].images[0]
    assert response.outcome == Outcome(code=Outcome.OK)
    found = response.affordances
    assert found.header == message.header
    assert (found.task, found.instruction, found.camera) == ("point", "the red mug", "camera")
    assert (found.image_width, found.image_height) == (640, 480)
    height, width = fitted.shape[:2]
    inside, outside = found.points
    assert inside.u == pytest.approx((56 + 0.5) * 640 / width - 0.5, abs=0.51)
    assert inside.v == pytest.approx((28 + 0.5) * 480 / height - 0.5, abs=0.51)
    assert not inside.clamped
    assert outside.clamped
    assert outside.u == pytest.approx(639, abs=0.51)
    assert math.isnan(inside.position.x)
    assert (found.report.model_image_width, found.report.model_image_height) == (width, height)


def test_each_task_answers_on_its_service() -> None:
    scripts = ["[10, 12, 30, 40]", "[8, 9, 20, 25]", "[(1, 2), (30, 40)]", "1. Reach\n2. Grasp", "Two mugs."]
    with scripted(*scripts) as (it, _):
        affordance = it.call(Locate, "affordance", Locate.Request(instruction="hold the mug"))
        ground = it.call(Locate, "ground", Locate.Request(instruction="the mug"))
        trajectory = it.call(PredictTrajectory, "trajectory", PredictTrajectory.Request(instruction="reach the mug"))
        plan = it.call(MakePlan, "plan", MakePlan.Request(task="clear the table"))
        answer = it.call(Ask, "ask", Ask.Request(question="How many mugs?"))
    assert [it.outcome.code for it in (affordance, ground, trajectory, plan, answer)] == [Outcome.OK] * 5
    area = affordance.affordances.areas[0]
    assert area.roi.width >= area.u_max - area.u_min
    assert area.roi.x_offset <= area.u_min + 0.5
    assert len(ground.affordances.areas) == 1
    assert len(trajectory.trajectory.waypoints) == 2
    assert math.isnan(trajectory.trajectory.waypoints[0].depth)
    assert [(step.order, step.text) for step in plan.plan.steps] == [(1, "Reach"), (2, "Grasp")]
    assert answer.answer.text == "Two mugs."
    assert answer.answer.report.raw_text == "Two mugs."


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"camera": "wrist"}, "known are: camera"),
        ({"think": 7}, "THINK_ON"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
        ({"images": [image_message(), image_message()]}, "exactly one"),
    ],
)
def test_options_that_contradict_their_description_are_refused(shared: Rig, options: dict[str, object], part: str) -> None:
    response = point(shared, **options)
    assert response.outcome.code == Outcome.BAD_REQUEST
    assert part in response.outcome.message


def test_an_empty_question_is_refused(shared: Rig) -> None:
    assert point(shared, " ").outcome.code == Outcome.BAD_REQUEST


@pytest.fixture(scope="module")
def shared() -> object:
    with scripted("[(10, 10)]") as (it, _):
        yield it
