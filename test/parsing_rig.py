"""Recorded answers of models, and functions that parse them in tests."""

from typing import Any

from robobrain_ros.core.profiles import profile_for
from robobrain_ros.core.query import Box, ParsedAnswer, PlanStep, Point, Task
from robobrain_ros.core.reading.answers import parse_answer

TWO, TWO_FIVE = profile_for("qwen2_5_vl"), profile_for("qwen3_vl")


def points(*pairs: Any) -> tuple[Point, ...]:
    return tuple(Point(*pair) for pair in pairs)


def read(task: Task, text: str, profile=TWO, **options: bool) -> ParsedAnswer:
    return parse_answer(task, text, profile, **options)


# Answers of real models, from the READMEs of FlagOpen/RoboBrain2.0 (7B and 3B) and RoboBrain2.5 (its figure).
RECORDED = {
    "7B grounding": (TWO, Task.GROUND, "[0, 193, 226, 640]", (Box(0, 193, 226, 640),)),
    "7B affordance": (TWO, Task.AFFORDANCE, "[577, 224, 638, 310]", (Box(577, 224, 638, 310),)),
    "7B trajectory": (
        TWO,
        Task.TRAJECTORY,
        "[(137, 116), (169, 94), (208, 84), (228, 80)]",
        points((137, 116), (169, 94), (208, 84), (228, 80)),
    ),
    "7B pointing": (
        TWO,
        Task.POINT,
        "[(376, 309), (332, 357), (384, 335), (343, 296), (348, 327), "
        "(328, 346), (371, 322), (392, 303), (380, 324), (337, 295)]",
        points(
            *((376, 309), (332, 357), (384, 335), (343, 296), (348, 327)),
            *((328, 346), (371, 322), (392, 303), (380, 324), (337, 295)),
        ),
    ),
    "7B navigation": (
        TWO,
        Task.POINT,
        "[(318, 445), (293, 466), (307, 478), (277, 459), (320, 456), (304, 450)]",
        points((318, 445), (293, 466), (307, 478), (277, 459), (320, 456), (304, 450)),
    ),
    "3B grounding": (TWO, Task.GROUND, "[0, 194, 267, 632]", (Box(0, 194, 267, 632),)),
    "3B trajectory": (
        TWO,
        Task.TRAJECTORY,
        "[(145, 123), (176, 120), (198, 78), (224, 74)]",
        points((145, 123), (176, 120), (198, 78), (224, 74)),
    ),
    "2.5 trajectory": (
        TWO_FIVE,
        Task.TRAJECTORY,
        "[(240,684,0.986), (493,659,0.963)]",
        points((240, 684, 0.986), (493, 659, 0.963)),
    ),
    "2.5 integer depth": (TWO_FIVE, Task.TRAJECTORY, "[(100, 200, 1)]", points((100, 200, 1))),
    "box out of the image": (TWO, Task.AFFORDANCE, "[19, 300, 154, 476]", (Box(19, 300, 154, 476),)),
}


def parts_of(answer: ParsedAnswer) -> tuple[Point | Box | PlanStep, ...]:
    return answer.points + answer.boxes + answer.waypoints + answer.steps


def steps(*texts: str) -> tuple[PlanStep, ...]:
    return tuple(PlanStep(order, text) for order, text in enumerate(texts, 1))


ROBOOS = {
    "reasoning_explanation": "The mug is in the robot's way.",
    "subtask_list": [
        {"robot_name": "arm_1", "subtask": 'Pick up the "red" mug', "subtask_order": 1},
        {"robot_name": "arm_2", "subtask": "Open the robot's drawer", "subtask_order": 1},
        {"robot_name": "arm_1", "subtask": "Put it in", "subtask_order": 2},
    ],
}
ROBOOS_STEPS = (
    PlanStep(1, 'Pick up the "red" mug', robot="arm_1"),
    PlanStep(1, "Open the robot's drawer", robot="arm_2"),
    PlanStep(2, "Put it in", robot="arm_1"),
)
