"""The examples and commands of docs/how-to/plan_service.md run against a node."""

import asyncio
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from action_msgs.msg import GoalStatus
from fakes import Script
from rclpy.action import ActionClient
from ros_rig import LIMIT, Rig, scripted

from robobrain_ros.cli import ask
from robobrain_ros.msg import Outcome

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "how-to" / "plan_service.md").read_text(encoding="utf-8")
SERVICE_EXAMPLE, ACTION_EXAMPLE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
ASKED = [shlex.split(line)[4:] for line in COMMANDS if line.startswith("ros2 run robobrain_ros ask ")]
STEP = {"subtask": "Pick it up.", "robot_name": "arm", "skill": "pick", "arguments": {"object": "red ball"}, "subtask_order": 1}
PLAN = json.dumps({"reasoning_explanation": "It is on the table.", "verdict": "plan", "subtask_list": [STEP]})


@contextmanager
def running(it: Rig, folder: Path, code: str) -> "Iterator[subprocess.Popen[str]]":
    """Run a program of the page in the node's namespace, as a user would. It must succeed."""
    program = folder / "example.py"
    program.write_text(code)
    namespace = it.name.removesuffix("/robobrain")
    command = [sys.executable, "-u", str(program), "--ros-args", "-r", f"__ns:={namespace}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")
    try:
        yield process
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.wait()


def test_the_service_example_executes_its_plan(tmp_path: Path) -> None:
    with scripted(PLAN, max_image_age=0.0) as (it, _), running(it, tmp_path, SERVICE_EXAMPLE) as process:
        said, _ = process.communicate(timeout=LIMIT)
    assert said == "arm pick {'object': 'red ball'}\n"


def test_the_action_example_prints_steps_as_they_come(tmp_path: Path) -> None:
    gate = asyncio.Event()
    script = Script(["1. Reach\n2. Grasp\n3. Lift\n", gate, "4. Go"])
    with scripted(script, max_image_age=0.0) as (it, _), running(it, tmp_path, ACTION_EXAMPLE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["streamed: 1 Reach\n", "streamed: 2 Grasp\n"]
        it.on_loop(gate.set)
        said, _ = process.communicate(timeout=LIMIT)
    assert said.splitlines()[-1] == f"{GoalStatus.STATUS_SUCCEEDED} {Outcome.OK} 4"


@pytest.mark.parametrize(
    ("example", "sentence"),
    [(SERVICE_EXAMPLE, "The node did not respond within 70 s."), (ACTION_EXAMPLE, "")],
    ids=["service", "action"],
)
def test_the_examples_end_where_no_answer_comes(example: str, sentence: str, tmp_path: Path) -> None:
    """The waits of the examples are shortened. The action example cancels its goal."""
    assert "timeout_sec=70.0" in example
    program = tmp_path / "example.py"
    program.write_text(example.replace("timeout_sec=70.0", "timeout_sec=1.0"), encoding="utf-8")
    with scripted(Script([asyncio.Event()]), max_image_age=0.0) as (it, engine):
        namespace = it.name.removesuffix("/robobrain")
        command = [sys.executable, str(program), "--ros-args", "-r", f"__ns:={namespace}"]
        ended = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=LIMIT, check=False)
        assert len(engine.generations) == 1
    assert "Traceback" not in ended.stderr
    assert sentence in ended.stderr
    assert ended.returncode == bool(sentence)


@pytest.mark.parametrize("example", [SERVICE_EXAMPLE, ACTION_EXAMPLE], ids=["service", "action"])
def test_the_examples_report_a_missing_node(example: str, tmp_path: Path) -> None:
    assert "(10.0)" in example
    program = tmp_path / "example.py"
    program.write_text(example.replace("(10.0)", "(0.1)"), encoding="utf-8")
    command = [sys.executable, str(program), "--ros-args", "-r", "__ns:=/nowhere"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=LIMIT, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "The node robobrain is not running."


def filled(message: Any, values: dict[str, Any]) -> Any:
    """Return the message with the values of a ros2 command line. Unknown fields and wrong types are errors."""
    types = message.get_fields_and_field_types()
    for name, value in values.items():
        assert name in types, f"{type(message).__name__} has no field {name}"
        kind = types[name].removeprefix("sequence<").removesuffix(">")
        if "/" in kind:
            package, class_name = kind.split("/")
            new = getattr(import_module(f"{package}.msg"), class_name)
            value = [filled(new(), part) for part in value] if isinstance(value, list) else filled(new(), value)
        setattr(message, name, value)  # The setter checks types and ranges.
    return message


@pytest.mark.parametrize(
    "command", [shlex.split(line) for line in COMMANDS if re.match("ros2 (service|action) ", line)], ids=lambda it: it[1]
)
def test_ros2_command_lines_fill_their_messages_and_are_answered(command: list[str]) -> None:
    words = [word for word in command if word != "--feedback"]
    assert words[0] == "ros2"
    name, kind, values = words[3:]
    package, folder, class_name = kind.split("/")
    interface = getattr(import_module(f"{package}.{folder}"), class_name)
    request = filled(interface.Request() if folder == "srv" else interface.Goal(), yaml.safe_load(values))
    name = name.removeprefix("/robobrain/")
    with scripted("1. Pick up the yellow block.") as (it, _):
        if folder == "srv":
            answer = it.call(interface, name, request)
        else:
            client = ActionClient(it.client, interface, f"{it.name}/{name}")
            it.until(client.server_is_ready, "the action")
            answer = it.answer(it.answer(client.send_goal_async(request)).get_result_async()).result
    assert answer.outcome.code == Outcome.OK, answer.outcome.message


def test_command_lines_of_ask_are_understood_and_their_files_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert len(ASKED) == 6
    for arguments in ASKED:
        parser = ask._parser()
        options = parser.parse_args(arguments)
        ask._check(options)
        assert options.plan is not None
