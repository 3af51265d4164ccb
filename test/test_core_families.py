"""The families besides RoboBrain: prompts, answers of their authors, grammars, and the same result wherever the text is cut."""
# The lines are longer than the style allows, because they quote prompts and answers.
# ruff: noqa: E501

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_core_profiles import VERBATIM as ROBOBRAIN

from robobrain_ros.bounds.constraints import check_regex_bounds
from robobrain_ros.core import AnswerParser, Task, parse_answer, profile_for
from robobrain_ros.core.grammars import coordinate_pattern
from robobrain_ros.core.imaging import FittedSize
from robobrain_ros.core.profiles import PROFILES, CoordinateRule
from robobrain_ros.core.query import Box, Point

SIZE = FittedSize(640, 480, 644, 476)
R1_FORMAT = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. The reasoning process "
    "and answer are enclosed within <think> </think> and <answer> </answer> tags. The answer consists only of several coordinate "
    "points, with the overall format being: <think> reasoning process here </think><answer><point>[[x1, y1], [x2, y2], ..."
)
R1_5_FORMAT = (
    "\nPlease answer this question based on the visual content.You FIRST think about the reasoning process as an internal monologue "
    "and then provide the final answer.At the end, you must output the final answer in the format:\n<answer><your_answer_here>"
    "</answer>\n"
)
VERBATIM = {
    ("qwen2.5-vl", Task.GROUND, "house"): "Locate house in this image and output the bbox coordinates in JSON format.",
    ("qwen3-vl", Task.POINT, "the free space on the white table on the right"): "Locate the free space on the white table on the "
    "right in this image. Output the point coordinates in JSON format.",
    ("qwen3-vl", Task.GROUND, "boat"): "Locate every instance that belongs to the following categories: 'boat'. Report bbox "
    "coordinates in JSON format.",
    (
        "embodied-r1",
        Task.POINT,
        "bring me the camel model",
    ): "Provide one or more points coordinate of objects region bring me the "
    f"camel model. The results are presented in a format <point>[[x1,y1], [x2,y2], ...]</point>. {R1_FORMAT}]</point></answer>",
    (
        "embodied-r1",
        Task.AFFORDANCE,
        "loosening stuck bolts",
    ): "Please provide the 2D points coordinate of the region this sentence "
    "describes: loosening stuck bolts. The results are presented in a format <point>[[x1,y1], [x2,y2], ...]</point>. "
    f"{R1_FORMAT}]</point></answer>",
    (
        "embodied-r1",
        Task.TRAJECTORY,
        "put pepper in pan",
    ): "You are currently a robot performing robotic manipulation tasks. The task "
    "instruction is: put pepper in pan. Use 2D points to mark the manipulated object-centric waypoints to guide the robot to "
    "successfully complete the task. You must provide the points in the order of the trajectory, and the number of points must be 8. "
    f"{R1_FORMAT}, [x8, y8]]</point></answer>.",
    (
        "embodied-r1.5",
        Task.POINT,
        "you need to grasp the mug",
    ): "Provide one or more points coordinate of objects region this sentence "
    "describes: you need to grasp the mug. The answer should be presented in JSON format as follows: "
    f'[{{"point_2d": [x, y]}}].{R1_5_FORMAT}Please pointing to answer the question within the <answer>...</answer> tags.\nExample:\n'
    '<answer>```json\n[{"point_2d": [230, 138]}]\n```</answer>',
    (
        "embodied-r1.5",
        Task.GROUND,
        "the mug",
    ): f"the mug{R1_5_FORMAT}Please provide only the bounding box as JSON with key 'boxes' "
    'within the <answer>...</answer> tags.\nExample:\n<answer>{"boxes": [35, 227, 437, 932]}</answer>',
    (
        "embodied-r1.5",
        Task.TRAJECTORY,
        "Put the cup on the tray.",
    ): f"Put the cup on the tray.{R1_5_FORMAT}Please provide only the ordered 2D waypoints with depth (in meters) as JSON with key "
    "'point_2d' and 'depth' within the <answer>...</answer> tags.\nExample:\n"
    '<answer>```json\n[{"point_2d": [463, 599], "depth": 1.08}, {"point_2d": [458, 603], "depth": 1.08}, {"point_2d": [449, 612], '
    '"depth": 1.06}]\n```</answer>',
    (
        "embodied-r1.5",
        Task.ASK,
        "Where?",
    ): f"Where?{R1_5_FORMAT}Please provide only your text answer within the <answer>...</answer> "
    "tags.\nExample:\n<answer>The capital of France is Paris.</answer>",
    (
        "rynnbrain",
        Task.POINT,
        "Find several locations.",
    ): "Find several locations.\nExpress the coordinates as a tuple sequence in the "
    "format <area> (x1, y1), (x2, y2), ... </area> with all coordinate values normalized to the standardized pixel coordinate system "
    "spanning 0 to 1000.",
    (
        "rynnbrain",
        Task.AFFORDANCE,
        "Open the left cabinet door",
    ): "Open the left cabinet door\nIdentify one affordance point and provide "
    "its normalized pixel coordinates. The x and y values must be between 0 and 1000. Output format: <affordance> (x, y) "
    "</affordance>.",
    (
        "rynnbrain",
        Task.TRAJECTORY,
        "Open it",
    ): "Open it\nPredict a trajectory comprising up to 10 key points. Return coordinates in the "
    "format <trajectory> (x1, y1), (x2, y2), ... </trajectory> with all values normalized to the [0, 1000] range.",
    (
        "rynnbrain",
        Task.GROUND,
        "What heats food?",
    ): "What heats food?\nGenerate coordinates for one object bounding box. Constraints: "
    "x1,y1,x2,y2 ∈ [0,1000]. Response must be in the format: <object> (x1, y1), (x2, y2) </object>",
    (
        "cosmos-reason2",
        Task.TRAJECTORY,
        "Move the tape into the basket",
    ): 'You are given the task "Move the tape into the basket". '
    "Specify the 2D trajectory your end effector should follow in pixel space. Return the trajectory coordinates in JSON format like "
    'this: {"point_2d": [x, y], "label": "gripper trajectory"}.',
    (
        "mimo-embodied",
        Task.POINT,
        "the cup",
    ): 'Based on the description: "the cup", locate points matching the description. Output a '
    'JSON in the format [{"points": [...], "label": "{the_whole_description}"}, ...].',
}
TAPE = [(195, 630), (485, 657), (496, 650), (496, 423), (496, 388)]
TAPE_JSON = ",\n".join(f'  {{"point_2d": [{x}, {y}], "label": "gripper trajectory"}}' for x, y in TAPE)
# Answers as the authors publish them, from the files that the profiles cite. Those of Embodied-R1 and MiMo-Embodied are in the form
# that the prompts prescribe, because the authors publish no answers.
EXAMPLES: list[tuple[str, Task, str, list[Any]]] = [
    ("qwen2.5-vl", Task.GROUND, '{\n"bbox_2d": [135, 114, 1016, 672]\n}', [Box(135, 114, 1016, 672)]),
    ("qwen3-vl", Task.POINT, '```json\n[\n\t{"point_2d": [925, 618], "label": "point_1"}\n]\n```', [Point(925, 618, label="point_1")]),
    ("qwen3-vl", Task.GROUND, '[{"bbox_2d": [1, 2, 30, 40], "label": "boat"}]', [Box(1, 2, 30, 40, label="boat")]),
    ("embodied-r1", Task.POINT, "<think>It is at [1, 2].</think><answer><point>[[10, 20], [30, 40]]</point></answer>",
     [Point(10, 20), Point(30, 40)]),
    ("embodied-r1", Task.TRAJECTORY, "<think>hm</think><answer><point>"
     "[[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, 6], [7, 7], [8, 8]]</point></answer>", [Point(n, n) for n in range(1, 9)]),
    ("embodied-r1.5", Task.POINT, '<answer>```json\n[{"point_2d": [342, 187]}]\n```</answer>', [Point(342, 187)]),
    ("embodied-r1.5", Task.GROUND, 'Locating the box.<answer>{"boxes": [100, 150, 200, 250]}</answer>', [Box(100, 150, 200, 250)]),
    ("embodied-r1.5", Task.GROUND, '<answer>```json\n[{"boxes": [100, 150, 200, 250]}]\n```</answer>', [Box(100, 150, 200, 250)]),
    ("embodied-r1.5", Task.TRAJECTORY, '<answer>```json\n[{"point_2d": [463, 599], "depth": 1.08}, {"point_2d": [458, 603], "depth": '
     '1.08}, {"point_2d": [449, 612], "depth": 1.06}]\n```</answer>',
     [Point(463, 599, 1.08), Point(458, 603, 1.08), Point(449, 612, 1.06)]),
    ("rynnbrain", Task.GROUND, "<object> (328,47), (556,272) </object>", [Box(328, 47, 556, 272)]),
    ("rynnbrain", Task.GROUND, "The object is <object>  <frame 7>:; (644, 0), (1000, 738) </object>.", [Box(644, 0, 1000, 738)]),
    ("rynnbrain", Task.POINT, "<area> (384, 965), (403, 952), (413, 984), (392, 992), (394, 997) </area>",
     [Point(384, 965), Point(403, 952), Point(413, 984), Point(392, 992), Point(394, 997)]),
    ("rynnbrain", Task.POINT, "The area is at <area> <frame 5>: ; (328, 812), (308, 817) </area>", [Point(328, 812), Point(308, 817)]),
    ("rynnbrain", Task.AFFORDANCE, "<affordance> (572, 309) </affordance>", [Point(572, 309)]),
    ("rynnbrain", Task.AFFORDANCE, "The affordance is at <affordance> <frame 6>:; (235, 419) </affordance>", [Point(235, 419)]),
    ("rynnbrain", Task.TRAJECTORY, "The start trajectory is at <trajectory> <frame 4>: ; (146, 373), (222, 255), (890, 304), (999, 479) "
     "</trajectory>", [Point(146, 373), Point(222, 255), Point(890, 304), Point(999, 479)]),
    ("cosmos-reason2", Task.TRAJECTORY, f"<think> I will move from [195, 630]. </think>\n\n```json\n[\n{TAPE_JSON}\n]\n```",
     [Point(x, y, label="gripper trajectory") for x, y in TAPE]),
    ("mimo-embodied", Task.POINT, '<think>hm</think>\n[{"points": [[12, 34], [56, 78]], "label": "the cup"}]',
     [Point(12, 34, label="the cup"), Point(56, 78, label="the cup")]),
    ("mimo-embodied", Task.POINT, '[{"points": [12, 34], "label": "the cup"}]', [Point(12, 34, label="the cup")]),
]  # fmt: skip
CONSTRAINED = [
    (profile.name, task) for profile in PROFILES for task in sorted(profile.tasks) if profile.prompts[task].writing is not None
]


def items_of(parsed: Any) -> list[Any]:
    return [*parsed.points, *parsed.boxes, *parsed.waypoints]


def test_every_prompt_with_a_source_is_compared() -> None:
    """The prompts of RoboBrain are in test_core_profiles.py, and that of GRM in test_core_progress.py."""
    compared = {(name, profile_for(name).prompts[task].template) for name, task, _ in VERBATIM}
    compared |= {(profile_for(model_type).name, profile_for(model_type).prompts[task].template) for model_type, task in ROBOBRAIN}
    for profile in PROFILES:
        for task, prompt in profile.prompts.items():
            if prompt.source is not None and task is not Task.PROGRESS:
                assert (profile.name, prompt.template) in compared, f"{profile.name}: {task.value}"


@pytest.mark.parametrize(("name", "task", "text"), VERBATIM)
def test_prompt_is_the_one_that_the_authors_publish(name: str, task: Task, text: str) -> None:
    assert profile_for(name).prompt(task, text) == VERBATIM[name, task, text]


def test_cosmos_is_asked_to_think_in_its_authors_words() -> None:
    profile = profile_for("cosmos-reason2")
    words = profile.request_to_think(True)
    assert words.startswith("\n\nAnswer the question using the following format:\n\n<think>\nYour reasoning.\n</think>\n\n")
    assert words.endswith("Write your final answer immediately after the </think> tag.")
    assert not profile.request_to_think(False)


@pytest.mark.parametrize(("name", "task", "text", "items"), EXAMPLES)
def test_answers_of_the_authors_are_read_wherever_they_are_cut(name: str, task: Task, text: str, items: list[Any]) -> None:
    profile = profile_for(name)
    assert items_of(parse_answer(task, text, profile)) == items
    for pieces in [list(text), *([text[:cut], text[cut:]] for cut in range(len(text)))]:
        parser = AnswerParser(task, profile)
        partial = [item for piece in pieces for item in items_of(parser.feed(piece))]
        assert items_of(parser.finish()) == items
        # "[1, 2]" in the thinking is not reported, and no part is reported twice.
        assert partial == items


@pytest.mark.parametrize(("name", "task", "text", "items"), EXAMPLES)
def test_the_grammar_allows_the_authors_answers(name: str, task: Task, text: str, items: list[Any]) -> None:
    profile = profile_for(name)
    answer = re.split("</think>|<answer>", text)[-1].replace("</answer>", "")
    if "frame" in answer:
        pytest.skip("The answer is about several frames; the node asks about one image.")
    size = FittedSize(1932, 1092, 1932, 1092)
    assert re.fullmatch(coordinate_pattern(task, profile, size), answer)


@pytest.mark.parametrize(("name", "task"), CONSTRAINED)
def test_every_text_that_a_grammar_allows_is_read_within_the_image(name: str, task: Task) -> None:
    profile = profile_for(name)
    pattern = coordinate_pattern(task, profile, SIZE)
    check_regex_bounds(pattern)
    pixels = profile.coordinates is CoordinateRule.PIXELS_OF_MODEL_IMAGE
    right, down = (SIZE.model_width, SIZE.model_height) if pixels else (1000, 1000)

    @settings(max_examples=40, deadline=None)
    @given(st.from_regex(pattern, fullmatch=True), st.integers(0, 400))
    def check(text: str, cut: int) -> None:
        if not text:
            return  # The answer of a checkpoint that cannot think, which the brain asks again.
        parser = AnswerParser(task, profile, constrained=True)
        parser.feed(text[:cut])
        parser.feed(text[cut:])
        parsed = parser.finish()
        items = items_of(parsed)
        assert bool(items) != parsed.nothing_found
        for item in items:
            edges = (item.u, item.v) * 2 if isinstance(item, Point) else (item.u_min, item.v_min, item.u_max, item.v_max)
            assert all(0 <= edge <= most for edge, most in zip(edges, (right, down) * 2, strict=True))

    check()


def test_a_trace_of_embodied_r1_has_eight_points() -> None:
    pattern = coordinate_pattern(Task.TRAJECTORY, profile_for("embodied-r1"), SIZE)
    for count in (0, 7, 8, 9):
        text = f"<point>[{', '.join(f'[{n}, {n}]' for n in range(count))}]</point>"
        assert bool(re.fullmatch(pattern, text)) == (count == 8)


def test_coordinates_outside_of_the_tags_are_prose() -> None:
    text = "The image is (640, 480). <area> (1, 2) </area>"
    assert items_of(parse_answer(Task.POINT, text, profile_for("rynnbrain"))) == [Point(1, 2)]


@pytest.mark.parametrize("text", ["a < b <area> (1, 2) </area>", "<area> (1, 2)", "<AREA>(1, 2)</AREA>", "<area> (1, 2) </area"])
def test_incomplete_and_false_tags_do_not_hide_coordinates(text: str) -> None:
    assert items_of(parse_answer(Task.POINT, text, profile_for("rynnbrain"))) == [Point(1, 2)]
