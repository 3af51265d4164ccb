"""Run every `ros2` command of README and docs with the tabletop demo, because newcomers try these commands first.

With ros2cli, the commands run unchanged. Without it (ROS 2 from PyPI), the same calls go through rclpy.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml
from ament_index_python.packages import get_package_prefix
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import GetState
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_rig import LIMIT
from rosidl_parser.definition import AbstractSequence, NamespacedType

from robobrain_ros.demo.client import running
from robobrain_ros.msg import Outcome
from robobrain_ros.srv import Locate

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
SHELLS = ("", "bash", "sh", "console")
COMMAND = re.compile(r"^(?:\$ )?(ros2 .*?)\s*(?:\s#.*)?$")
NOT_HERE = {
    r"ros2 launch ": "needs `ros2 launch`; test_launch.py runs both launch files where it is",
    r"ros2 run robobrain_ros (tune_flagos|check_consistency) ": "needs a GPU or the weights",
    r"ros2 run robobrain_ros robobrain ": "needs the weights and a robot's cameras",
    r"ros2 run robobrain_ros demo_executor ": "brings a camera of its own; test_demo_executor.py runs it",
    r"ros2 run robobrain_ros ask .*--(node|camera) ": "needs a node or a camera of that name",
    r'ros2 run robobrain_ros ask point "the red mug"': "names what a robot's own camera sees",
    r"ros2 (service call /lifecycle_manager/|run nav2_lifecycle_manager )": "needs the lifecycle manager of Nav2",
    r"ROS_SECURITY_ENCLAVE_OVERRIDE=": "needs keys of SROS 2",
    r"ros2 run tf2_": "needs tf2",
    r"ros2 security ": "makes keys; needs SROS 2",
    r"ros2 topic (hz|info) ": "shows a rate or a publisher, not an answer",
    r"ros2 (lifecycle set|param set|param load) ": "changes the node",
    r"ros2 bag ": "needs rosbag2",
    r"ros2 topic echo .*/progress": "shows the estimates of a goal of ~/watch_task; test_ros_progress.py receives them",
}
"""Commands that the demo cannot answer, and the reasons."""
RUNS = r"ros2 (service call|action send_goal|topic echo|lifecycle get|interface show|pkg prefix|run robobrain_ros ask) "
"""Commands that this test runs. All of them can be repeated."""
ROS2 = [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())"]
PARAMETERS = {
    "camera.use_depth": True,
    "camera.history_seconds": 5.0,
    "camera.history_frames": 16,
    "warm_up": False,
    "grid_check": "off",
}
"""Parameters of the node, as in config/demo.yaml without the standing queries."""
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def documented() -> list[tuple[str, str]]:
    """Return page and command of each line in a code block that begins with ros2."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines() if language in SHELLS else []
            found += [(page.name, match[1]) for match in map(COMMAND.match, lines) if match]
    return list(dict.fromkeys(found))


def why_not(command: str) -> str:
    """Return why a command does not run in this test. Empty: it runs."""
    return next((reason for pattern, reason in NOT_HERE.items() if re.match(pattern, command)), "")


COMMANDS = list(dict.fromkeys(command for _, command in documented() if not why_not(command) and re.match(RUNS, command)))


@pytest.fixture(scope="module")
def domain() -> Iterator[int]:
    """Use a separate ROS domain, because the documented names are absolute, and each test session has its own node robobrain."""
    before = os.environ["ROS_DOMAIN_ID"]
    number = (int(before) + 1) % 102  # conftest.py keeps the next number free.
    os.environ["ROS_DOMAIN_ID"] = str(number)
    yield number
    os.environ["ROS_DOMAIN_ID"] = before


class Demo:
    """A client of the running demo."""

    def __init__(self, domain: int, folder: Path) -> None:
        self.folder = folder
        self.context = rclpy.context.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node: Any = rclpy.create_node("reader_of_the_docs", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def wait(self, future: Any, seconds: float = LIMIT) -> Any:
        self.executor.spin_until_future_complete(future, seconds)
        assert future.done(), "no answer has come"
        return future.result()

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(service_type, name)
        assert client.wait_for_service(LIMIT), name
        return self.wait(client.call_async(request))

    def run(self, *command: str) -> str:
        """Run a program in the user's folder, and return its output."""
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=2 * LIMIT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def demo(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Start the demo's camera and the node with the demo model, and provide a folder with the repository's config."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / "config").symlink_to(REPOSITORY / "config")
    camera = running("robobrain_ros.demo.camera", "/", folder / "camera.log", seed=12)
    node = running("robobrain_ros.cli.robobrain", "/", folder / "node.log", **PARAMETERS)
    with camera, node:
        it = Demo(domain, folder)
        request = Locate.Request(instruction="the purple mug")
        states: list[DiagnosticArray] = []
        it.node.create_subscription(DiagnosticArray, "/diagnostics", states.append, 10)
        end = time.monotonic() + 4.5 * LIMIT
        while not any(value.value == "ready" for state in states for status in state.status for value in status.values):
            assert time.monotonic() < end, (folder / "node.log").read_text()
            it.executor.spin_once(timeout_sec=0.5)
        assert it.call(Locate, "/robobrain/point", request).outcome.code == Outcome.OK
        yield it
        it.node.destroy_node()
        rclpy.shutdown(context=it.context)


def filled(message: Any, values: dict[str, Any]) -> Any:
    """Return a message with the fields that a command line gives as YAML."""
    types = dict(zip(message.get_fields_and_field_types(), message.SLOT_TYPES, strict=True))
    for name, value in values.items():
        setattr(message, name, _converted(types[name], value))
    return message


def _converted(kind: Any, value: Any) -> Any:
    if isinstance(kind, NamespacedType):
        return filled(getattr(import_module(".".join(kind.namespaces)), kind.name)(), value)
    if isinstance(kind, AbstractSequence) and isinstance(kind.value_type, NamespacedType):
        return [_converted(kind.value_type, each) for each in value]
    return value


def interface(name: str) -> Any:
    """Return the class of an interface such as robobrain_ros/srv/Locate."""
    package, kind, name = name.split("/")
    return getattr(import_module(f"{package}.{kind}"), name)


def run_with_ros2(demo: Demo, words: list[str]) -> None:
    # The daemon may not have discovered the topic or the node, so the command runs without it, with enough time for discovery.
    patient = ["--no-daemon", "--spin-time", "5"] if words[1] in ("topic", "lifecycle") else []
    output = demo.run(*ROS2, *words[1:], *patient, *(["--once"] if words[1:3] == ["topic", "echo"] else []))
    if words[1] == "service":
        assert f"Outcome(code={Outcome.OK}," in output
    if words[1] == "action":
        # A watch whose task does not succeed is aborted, with the outcome OK.
        assert re.search(rf"^Result:\s+outcome:\s+code: {Outcome.OK}$", output, re.MULTILINE), output
    assert output.strip()


def run_through_rclpy(demo: Demo, words: list[str]) -> None:
    """Make the same calls as ros2cli."""
    _, command, verb, *rest = words
    rest = [word for word in rest if not word.startswith("--")]
    if command == "service":
        kind = interface(rest[1])
        response = demo.call(kind, rest[0], filled(kind.Request(), yaml.safe_load(rest[2])))
        assert response.outcome.code == Outcome.OK, response.outcome.message
    elif command == "action":
        kind = interface(rest[1])
        client = ActionClient(demo.node, kind, rest[0])
        assert client.wait_for_server(LIMIT)
        goal = demo.wait(client.send_goal_async(filled(kind.Goal(), yaml.safe_load(rest[2]))))
        assert demo.wait(goal.get_result_async()).result.outcome.code == Outcome.OK
        client.destroy()
    elif command == "topic":
        infos: list[Any] = []
        messages: list[Any] = []
        end = time.monotonic() + LIMIT
        while not messages:
            if not infos and (infos := demo.node.get_publishers_info_by_topic(rest[0])):
                kind = interface(infos[0].topic_type)
                qos = QoSProfile(depth=1, durability=infos[0].qos_profile.durability)
                demo.node.create_subscription(kind, rest[0], messages.append, qos)
            assert time.monotonic() < end, f"nothing comes on {rest[0]}"
            demo.executor.spin_once(timeout_sec=0.1)
    elif command == "lifecycle":
        assert demo.call(GetState, f"{rest[0]}/get_state", GetState.Request()).current_state.label == "active"
    elif command == "interface":
        assert interface(rest[0])
    elif command == "pkg":
        assert get_package_prefix(rest[0])
    else:
        demo.run(str(Path(get_package_prefix(verb)) / "lib" / verb / rest[0]), *words[4:])


def test_the_readme_has_commands() -> None:
    """The other tests run these commands."""
    assert {"README.md", "first_steps.md", "command_line.md", "plan_service.md"} <= {page for page, _ in documented()}
    assert any(command.startswith("ros2 service call") for command in COMMANDS)


@pytest.mark.parametrize(("page", "command"), documented())
def test_every_command_is_known_to_run_or_not(page: str, command: str) -> None:
    """A new command must run, or be added to NOT_HERE with a reason."""
    assert why_not(command) or re.match(RUNS, command), f"{page}: {command}"


@pytest.mark.timeout(5 * LIMIT)
def test_the_executor_ends_with_an_error_while_the_demos_camera_runs(demo: Demo) -> None:
    command = [sys.executable, "-P", "-m", "robobrain_ros.demo.executor", "put all balls into the bowl"]
    done = subprocess.run(command, cwd=demo.folder, capture_output=True, text=True, timeout=2 * LIMIT, check=False)
    assert done.returncode == 1
    assert "/demo_camera publishes it too" in done.stderr


@pytest.mark.timeout(5 * LIMIT)
def test_the_programs_of_the_plan_page_get_plans(demo: Demo) -> None:
    page = (REPOSITORY / "docs" / "how-to" / "plan_service.md").read_text(encoding="utf-8")
    service_program, action_program = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert demo.run(sys.executable, "-c", service_program).splitlines() == [
        "arm pick {'object': 'yellow block'}",
        "arm place {'object': 'yellow block', 'relation': 'in', 'place': 'green bowl'}",
    ]
    assert demo.run(sys.executable, "-c", action_program).count("streamed: ") == 4
    arguments = next(line for line in page.splitlines() if line.startswith("python3 examples/")).split(maxsplit=2)[2]
    example = str(REPOSITORY / "examples" / "plan_and_execute.py")
    command = (sys.executable, example, *shlex.split(arguments))
    done = subprocess.run(command, cwd=demo.folder, capture_output=True, text=True, timeout=2 * LIMIT, check=False)
    steps = [
        "arm: pick {'object': 'yellow block'}",
        "arm: place {'object': 'yellow block', 'relation': 'in', 'place': 'green bowl'}",
    ]
    assert done.stdout.splitlines() == 2 * steps
    assert "executed twice" in done.stderr


@pytest.mark.timeout(5 * LIMIT)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_answers(demo: Demo, command: str) -> None:
    """The outcome is OK, because the demo contains the requested objects."""
    words = shlex.split(command)
    if find_spec("ros2cli"):
        run_with_ros2(demo, words)
    else:
        run_through_rclpy(demo, words)
