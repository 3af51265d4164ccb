"""The program ask in a separate process: with a node over DDS, and with its own engine and an image file."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from fakes import Script, ScriptedEngine
from processes import USUAL_SIGNALS
from ros_rig import LIMIT, Rig, image, image_message, rig, scripted

from robobrain_ros.cli import ask
from robobrain_ros.cli.reply import Reply, to_dict, to_lines
from robobrain_ros.core import imaging
from robobrain_ros.core.plans.request import PlanVerdict
from robobrain_ros.core.query import CAMERA_TASKS, Answer, Box, PlanStep, Point, Task
from robobrain_ros.demo.world import Scene, make_scene
from robobrain_ros.errors import OutcomeCode

PROGRAM = [sys.executable, "-c", "from robobrain_ros.cli.ask import main; raise SystemExit(main())"]
START = 280.0
"""Time limit in seconds for starting an engine on a busy machine."""


def begin(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    # In the repository, Python would find the sources without the built messages.
    return subprocess.Popen(
        [*USUAL_SIGNALS, *PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        env=os.environ | environment,
    )  # fmt: skip


def run(*arguments: str, limit: float = LIMIT, **environment: str) -> tuple[int, str, str]:
    """Run the program. Return exit code, standard output and standard error, which must not contain a traceback."""
    process = begin(*arguments, **environment)
    try:
        out, err = process.communicate(timeout=limit)
    finally:
        process.kill()
    assert "Traceback" not in out + err
    return process.returncode, out, err


# The programs start slowly, so an image can be older than usual.
node = partial(scripted, max_image_age=0.0)


def ask_it(it: Rig, *arguments: str) -> tuple[int, str, str]:
    """Run the program with the node under test."""
    return run(*arguments, "--node", it.name)


def asked_json(it: Rig, *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = ask_it(it, *arguments, "--json")
    assert len(out.splitlines()) == 1
    return code, json.loads(out)


def test_a_point_is_printed_and_the_request_is_as_the_options_say() -> None:
    """Text, thinking and limits reach the engine. Coordinates are in pixels of the camera's image."""
    with node("[(10, 20), (30, 14)]") as (it, engine):
        code, out, err = ask_it(it, "point", "the red mug", "--max-tokens", "7", "--no-think", "--camera", "camera")
        generation = engine.generations[-1]
        frame = it.node.cameras["camera"].newest
        assert frame is not None
    assert code == 0, err
    lines = out.splitlines()
    assert len(lines) == 2
    height, width = generation.images[0].shape[:2]
    assert lines[0] == f"  1  ({10.5 * 64 / width - 0.5:.1f}, {20.5 * 48 / height - 0.5:.1f})"
    assert generation.max_tokens == 7
    assert "the red mug" in generation.user_text
    stamp = frame.header.stamp
    assert f"camera camera, 64x48 pixels, frame camera_optical, stamp {stamp.sec}.{stamp.nanosec:09d}, scripted" in err


TASKS: dict[str, tuple[str, str, Any]] = {
    "point": ("[(10, 20)]", "points", 1),
    "affordance": ("[10, 20, 30, 40]", "boxes", 1),
    "ground": ("[10, 20, 30, 40]", "boxes", 1),
    "trajectory": ("[(10, 20), (30, 40), (50, 40)]", "waypoints", 3),
    "plan": ("1. Reach for the mug.\n2. Grasp the mug.", "steps", 2),
    "ask": ("There are two.", "text", 14),
}
"""For each task: the text of the model, the key of the answer in the JSON object, and its length. A number has no length."""
OTHER_KEYS = {
    "outcome", "message", "task", "asked", "camera", "header", "image",
    "verdict", "reasoning", "roboos_json", "thinking", "report",
}  # fmt: skip
"""Keys of the JSON object that are not the answer to a single task."""


@pytest.mark.parametrize("task", [task.value for task in CAMERA_TASKS])
def test_each_task_prints_one_json_object(task: str) -> None:
    """The object has the answer in the correct field, the image's header and the report. Other fields are empty."""
    assert task in TASKS, f"add an answer to {task} to TASKS in this file"
    text, key, size = TASKS[task]
    with node(text) as (it, _):
        code, said = asked_json(it, task, "the mug")
        frame = it.node.cameras["camera"].newest
        assert frame is not None
    assert (code, said["outcome"], said["message"], said["task"], said["asked"]) == (0, "OK", "", task, "the mug")
    assert key in said, f"robobrain_ros/cli/reply.py: the JSON object has no key {key}"
    found = said[key]
    assert (len(found) if isinstance(found, list | str) else found) == size
    assert [name for name in said if name not in OTHER_KEYS | {key} and said[name] not in ([], "", None)] == []
    assert said["verdict"] == ("plan" if task == "plan" else "")
    subtasks = json.loads(said["roboos_json"])["subtask_list"] if task == "plan" else []
    assert [subtask["subtask"] for subtask in subtasks] == [step["text"] for step in said["steps"]]
    assert said["header"]["stamp"] == {"sec": frame.header.stamp.sec, "nanosec": frame.header.stamp.nanosec}
    assert said["header"]["frame_id"] == "camera_optical"
    assert said["report"]["raw_text"] == text
    if key in ("points", "boxes", "waypoints"):
        assert said[key][0]["position"] is None
        assert said["image"] == {"width": 64, "height": 48}


def test_each_outcome_has_its_exit_code_and_a_sentence() -> None:
    """The outcome is shown as text and as JSON."""
    with node("[]", "What do you mean?") as (it, _):
        code, said = asked_json(it, "point", "the whale")
        assert (code, said["outcome"], said["points"]) == (1, "NOTHING_FOUND", [])
        assert said["message"]
        code, out, err = ask_it(it, "point", "the mug")
        assert (code, out) == (4, "")
        assert "UNPARSABLE_ANSWER: " in err
        assert "What do you mean?" in err
        code, out, err = ask_it(it, "point", "the mug", "--camera", "wrist")
        assert (code, out) == (2, "")
        assert "BAD_REQUEST: There is no camera 'wrist'" in err


def test_a_node_without_an_image_reports_no_image() -> None:
    with rig(ScriptedEngine(["x"])) as it:
        it.until_ready()
        code, said = asked_json(it, "ask", "How many?")
    assert (code, said["outcome"], said["header"]["frame_id"]) == (3, "NO_IMAGE", "")


def test_the_saved_image_is_the_one_of_this_answer(tmp_path: Path) -> None:
    """The image of the previous answer, which the node keeps for late subscribers, is not saved."""
    path = tmp_path / "answer.png"
    with node("[(10, 10)]", "[(50, 40)]") as (it, _):
        overlays = it.listen(type(image_message()), f"{it.name}/overlay")
        assert ask_it(it, "point", "the first")[0] == 0
        it.until(lambda: overlays)
        code, _, err = ask_it(it, "point", "the second", "--save", str(path))
        # The node publishes the first image again, because --save adds a subscriber.
        it.until(lambda: [overlay for overlay in overlays if overlay.data != overlays[0].data])
        # On a loaded machine, the first image can arrive again after the second one.
        second = next(overlay for overlay in overlays if overlay.data != overlays[0].data)
        expected = np.frombuffer(second.data, np.uint8).reshape(second.height, second.width, 3)
    assert code == 0, err
    assert np.array_equal(imaging.read_image(path), expected)
    assert not np.array_equal(expected, image())


def test_an_image_is_saved_under_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    """OpenCV crashes on such a name."""
    path = tmp_path / os.fsdecode(b"\x80\xff.png")
    with node("[(10, 10)]") as (it, _):
        code, _, err = ask_it(it, "point", "mug", "--save", str(path))
    assert code == 0, err
    assert imaging.read_image(path).shape == image().shape


def test_a_timeout_or_an_interruption_ends_the_program(tmp_path: Path) -> None:
    gate = asyncio.Event()
    with node(Script([gate, "late"])) as (it, engine):
        code, _, err = ask_it(it, "ask", "How many?", "--timeout", "0.5")
        assert code == 3
        assert "TIMEOUT: " in err
        process = begin("ask", "How many?", "--node", it.name)
        it.until(lambda: len(engine.generations) == 2, "the second question")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
        assert (process.returncode, out, err) == (130, "", "ask: interrupted\n")
        it.on_loop(gate.set)


def test_several_cameras_are_asked_about_at_once() -> None:
    """The images have the order of the arguments. Tasks with one image reject several cameras."""
    with node("Two.", cameras=["camera", "wrist"]) as (it, engine):
        it.show(image_message(width=80), "wrist")
        cameras = ("--camera", "wrist", "--camera", "camera")
        code, said = asked_json(it, "ask", "How many?", *cameras)
        assert (code, said["text"], said["camera"]) == (0, "Two.", "wrist")
        assert len(engine.generations[-1].images) == 2
        code, said = asked_json(it, "point", "the mug", *cameras)
        assert (code, said["outcome"]) == (2, "BAD_REQUEST")


def test_the_last_seconds_of_a_camera_are_asked_about() -> None:
    engine = ScriptedEngine(["The cup."])
    with rig(engine, camera__history_seconds=4.0, camera__history_frames=5, max_image_age=0.0) as it:
        it.until_ready()
        it.until(lambda: list(it.node.cameras), "open cameras")
        history = it.node.cameras["camera"].history
        assert history is not None
        for second in (10, 11, 12):
            it.show(image_message(stamp=Time(sec=second)))
            it.until(partial(lambda wanted: history.newest_time == wanted, second * 10**9), "the image in the buffer")
        code, said = asked_json(it, "ask", "What moved?", "--history", "2", "--frames", "3")
        assert (code, said["text"]) == (0, "The cup.")
        assert said["report"]["stamps"] == [[10, 0], [11, 0], [12, 0]]
        assert "Seconds before the last image: 2, 1, 0." in engine.generations[-1].user_text
        code, said = asked_json(it, "ask", "What moved?", "--history", "5")
        assert (code, said["outcome"]) == (2, "BAD_REQUEST")


def test_files_of_the_last_seconds_are_evenly_spaced() -> None:
    assert ask._times(3.0, 4) == [-3.0, -2.0, -1.0, 0.0]
    assert ask._times(0.0, 4) == []


def test_a_missing_node_is_reported_with_the_running_nodes() -> None:
    with node("x") as (it, _):
        code, out, err = run("ask", "How many?", "--node", "/nowhere/robobrain")
    assert (code, out) == (3, "")
    assert "The service /nowhere/robobrain/ask did not appear within 5 s." in err
    assert it.name in err.split("Running nodes: ")[1]
    assert "/nowhere" not in err.split("Running nodes: ")[1]


def test_a_node_in_a_namespace_is_found_by_ros_arguments() -> None:
    with node("Two.") as (it, _):
        namespace = it.name.removesuffix("/robobrain")
        code, out, err = run("ask", "How many?", "--ros-args", "-r", f"__ns:={namespace}")
    assert (code, out) == (0, "Two.\n"), err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required"),
        (["dance", "tango"], "invalid choice: 'dance'"),
        (["point", " "], "The question is empty"),
        (["point", "x", "--timeout", "-1"], "not a positive number of seconds"),
        (["point", "x", "--timeout", "soon"], "'soon' is not a positive number of seconds"),
        (["point", "x", "--max-tokens", "many"], "'many' is not a positive whole number"),
        (["point", os.fsdecode(b"m\xfcg")], "is not text in UTF-8"),
        (["point", "x", "--node", os.fsdecode(b"\xff")], "is not text in UTF-8"),
        (["point", "x", "--camera", os.fsdecode(b"\xff")], "is not text in UTF-8"),
        (["point", "x", "--model", "y"], "--model, --model-profile, --url and --engine need --image"),
        (["point", "x", "--image", "a.png", "--camera", "y"], "remove --node and --camera"),
        (["point", "x", "--image", "a.png", "--image", "b.png"], "exactly one image, not 2"),
        (["point", "x", "--image", "a.png", "--engine", "speed=9"], "'speed=9' is not NAME=VALUE"),
        (["point", "x", "--image", "a.png", "--engine", "max_images=" + "[" * 5000], "the value of max_images is not YAML"),
        (["point", "x", "--image", "a.png", "--engine", "max_images={"], "the value of max_images is not YAML"),
        (["point", "x", "--save", "/nowhere/x.png"], "the folder does not exist"),
        (["point", "x", "--save", "x.doc"], "Use .png or .jpg"),
        (["point", "x", "--check"], "need the task plan"),
        (["plan", "x", "--check", "--replan"], "not allowed with"),
        (["point", "x", "--behavior-tree"], "--behavior-tree needs the task plan"),
        (["plan", "x", "--behavior-tree", "--json"], "remove --json"),
        (["ask", "x", "--frames", "3"], "--frames needs --history"),
        (["ask", "x", "--history", "-3"], "not a positive number of seconds"),
        (["point", "x", "--history", "3"], "for the tasks ask and plan, not for point"),
        (["ask", "x", "--history", "3", "--image", "a.png"], "at least two images"),
        (["ask", "x", "--history", "3", "--frames", "2", "--image", "a.png", "--image", "b.png"], "--frames needs a camera"),
        (["plan", "x", "--robots", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
        (["plan", "x", "--place", "table"], "'table' is not of the form PLACE: THING, THING"),
        (["point", "x", "--node", "no name"], "'no name' is not a valid node name"),
        (["point", "x", "--ros-args", "-r", "__ns:=no-namespace"], "__ns:=no-namespace"),
    ],
)
def test_wrong_usage_is_reported_in_a_sentence(arguments: Sequence[str], said: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_an_exception_does_not_end_with_the_exit_code_of_nothing_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: Any) -> Any:
        raise KeyError("Boom")

    monkeypatch.setattr(ask, "_ask_node", fail)
    assert ask.main(["point", "mug"]) == ask.EXIT_CODES[OutcomeCode.ENGINE_FAILED]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("ask: ENGINE_FAILED: Unexpected KeyError.")


def test_a_plan_is_printed_as_a_behavior_tree(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    steps = (PlanStep(1, "Wave.", "arm", "wave"),)
    answers = [Answer(Task.PLAN, "", steps=steps), Answer(Task.PLAN, "", verdict=PlanVerdict.DONE)]
    replies = [Reply(OutcomeCode.OK, "", answer) for answer in answers]
    monkeypatch.setattr(ask, "_ask_node", lambda *_: replies.pop(0))
    assert ask.main(["plan", "wave", "--behavior-tree"]) == 0
    (action,) = ElementTree.fromstring(capsys.readouterr().out).findall("BehaviorTree/Sequence/Action")
    assert (action.get("ID"), action.get("robot")) == ("wave", "arm")
    assert ask.main(["plan", "wave", "--behavior-tree"]) == 0
    assert capsys.readouterr().out == "The task is done.\n"


def test_help_lists_every_exit_code() -> None:
    code, out, _ = run("--help")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ") and line.strip()[0].isdigit()}
    for outcome, number in ask.EXIT_CODES.items():
        assert outcome.name in rows[str(number)]
    assert set(ask.EXIT_CODES) == set(OutcomeCode)


def test_the_documentation_lists_every_exit_code(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "command_line.md").read_text(encoding="utf-8")
    section = text.split("\n## Exit codes\n")[1].split("\n## ")[0]
    rows = {line.split(" | ")[0].strip("| "): line for line in section.splitlines() if line.startswith("| ")}
    for outcome, number in ask.EXIT_CODES.items():
        assert f"`{outcome.name}`" in rows[str(number)]
    assert {str(ask.NOT_SAVED), str(ask.INTERRUPTED)} < set(rows)


@pytest.mark.parametrize(("modules", "forbidden"), [("robobrain_ros.cli.ask", "rclpy vllm torch robobrain_ros.msg"),
                                                    ("robobrain_ros.cli.ask_node", "vllm torch")])  # fmt: skip
def test_the_program_imports_only_the_packages_that_it_needs(modules: str, forbidden: str) -> None:
    """It imports ROS only to ask a node, and an engine only to ask about a file."""
    code = f"import {modules}, sys; sys.exit(' '.join(set(sys.modules) & set({forbidden.split()})) or None)"
    subprocess.run([sys.executable, "-c", code], cwd="/", check=True, timeout=LIMIT)


def test_without_ros_the_error_states_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "rclpy.py").write_text("raise ImportError('No module named rclpy')\n")
    code, out, err = run("point", "x", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert (code, out) == (2, "")
    assert "No module named rclpy" in err
    assert "--image" in err


def test_an_image_that_cannot_be_read_starts_no_engine(tmp_path: Path) -> None:
    (tmp_path / "noise.png").write_bytes(b"noise")
    for name in ("noise.png", "nothing.png"):
        code, out, err = run("point", "x", "--image", str(tmp_path / name), "--json")
        assert (code, json.loads(out)["outcome"]) == (4, "BAD_IMAGE")
        assert "loading" not in err


def test_the_printed_lines_show_positions_depths_and_robots() -> None:
    """Parts that the scripted answers above do not have."""
    points = (Point(1, 2, depth=0.5, label="mug"), Point(3, 4, clamped=True))
    reply = Reply(OutcomeCode.OK, "", Answer(Task.POINT, "", thinking="Hm.", points=points), positions=[(1, 2, 3), None])
    assert to_lines(reply) == [
        "  (Hm.)",
        "  1  (1.0, 2.0)  depth 0.500 m  mug  at (1.000, 2.000, 3.000) m",
        "  2  (3.0, 4.0)  (moved to the image's border)",
    ]
    assert [point["position"] for point in to_dict(reply, "x")["points"]] == [[1, 2, 3], None]
    boxes = (Box(1, 2, 3, 4, label="bowl"),)
    reply = Reply(OutcomeCode.OK, "", Answer(Task.GROUND, "", boxes=boxes), positions=[(0, 0, 1)])
    assert to_lines(reply) == ["  1  (1.0, 2.0) to (3.0, 4.0)  bowl  at (0.000, 0.000, 1.000) m"]
    steps = (PlanStep(1, "Go.", "left", "move", '{"to": "x"}'), PlanStep(2, "Stop."))
    assert to_lines(Reply(OutcomeCode.OK, "", Answer(Task.PLAN, "", steps=steps))) == [
        '  1. left: Go.  [move {"to": "x"}]',
        "  2. Stop.",
    ]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(12, (640, 480))


@pytest.mark.timeout(START + LIMIT)
def test_an_image_file_is_answered_by_the_demo_model(tmp_path: Path, scene: Scene) -> None:
    """The standard output is one JSON object, also if the engine prints. The point is on the object, and an image is saved."""
    file, saved = tmp_path / "scene.png", tmp_path / "answer.jpg"
    cv2.imwrite(str(file), cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR))
    bowl = next(thing for thing in scene.objects if thing.name == "green bowl")
    code, out, err = run("ground", bowl.name, "--image", str(file), "--save", str(saved), "--json", limit=START)
    assert code == 0, err
    said = json.loads(out)
    (box,) = said["boxes"]
    assert said["header"] == {"stamp": None, "frame_id": ""}
    assert said["image"] == {"width": 640, "height": 480}
    assert "Loading the tabletop demo model" in err
    u, v = (box["u_min"] + box["u_max"]) / 2, (box["v_min"] + box["v_max"]) / 2
    left, top, right, bottom = bowl.box
    assert left < u < right
    assert top < v < bottom
    drawn = imaging.read_image(saved)
    assert drawn.shape == scene.image.shape
    changed = np.abs(drawn.astype(int) - scene.image).sum(axis=2) > 120
    assert changed.any()


@pytest.mark.timeout(START + LIMIT)
def test_an_interruption_ends_a_loading_engine(tmp_path: Path, scene: Scene) -> None:
    """As in a terminal, the signal reaches the program and all its child processes. No process remains."""
    file = tmp_path / "scene.png"
    cv2.imwrite(str(file), scene.image)
    process = subprocess.Popen(
        [*USUAL_SIGNALS, *PROGRAM, "point", "x", "--image", str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stdout is not None
    try:
        while "Starting the engine" not in process.stderr.readline():
            assert process.poll() is None, "it has ended before it began to load"
        os.killpg(process.pid, signal.SIGINT)
        # These reads return only when no child process has the pipes open.
        err, out = process.stderr.read(), process.stdout.read()
        assert process.wait(LIMIT) == ask.INTERRUPTED
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert out == ""
    assert "ask: interrupted" in err
