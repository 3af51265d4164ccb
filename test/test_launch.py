"""The launch files with the real `ros2 launch`: the effect of their arguments, and that no process outlives them."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import rclpy
from ament_index_python.packages import get_package_share_directory, get_packages_with_prefixes
from lifecycle_msgs.srv import GetState
from processes import USUAL_SIGNALS
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import parameter_value_to_python
from ros_rig import LIMIT

from robobrain_ros.ros.process.transport_profile import profile_variable

for _module in ("launch.actions", "launch_ros.actions", "ros2launch", "ros2cli.cli"):
    pytest.importorskip(_module, reason="there is no `ros2 launch`: PyPI has none, a ROS installation has")

pytestmark = pytest.mark.timeout(3 * LIMIT)
ROS2 = [sys.executable, "-c", "import sys; from ros2cli.cli import main; sys.exit(main())"]
LAUNCH = [*ROS2, "launch", "--noninteractive", "robobrain_ros"]


def launch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a launch that ends without a signal. ``stdout`` has its log from both streams."""
    done = subprocess.run(
        [*LAUNCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/", timeout=LIMIT, check=False
    )
    assert "Traceback" not in done.stdout
    return done


@contextmanager
def launched(log: Path, *arguments: str) -> Iterator[SimpleNamespace]:
    """Run a launch and interrupt it. ``processes`` are all that it started, ``said`` is its log, ``code`` its exit status."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [*USUAL_SIGNALS, *LAUNCH, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
    it = SimpleNamespace(process=psutil.Process(process.pid), said=log.read_text, processes=[], code=None)
    try:
        yield it
        it.processes = it.process.children(recursive=True)
        process.send_signal(signal.SIGINT)
        it.code = process.wait(LIMIT)
    finally:
        if process.poll() is None:
            for left in [*it.process.children(recursive=True), it.process]:
                left.kill()
        process.wait(LIMIT)


class Client:
    """A node that sends requests to the launched nodes."""

    def __init__(self) -> None:
        self.context = rclpy.context.Context()
        rclpy.init(context=self.context)
        self.node: Any = rclpy.create_node("launch_client", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(service_type, name)
        assert client.wait_for_service(LIMIT), f"there is no service {name}"
        future = client.call_async(request)
        self.executor.spin_until_future_complete(future, LIMIT)
        return future.result()

    def parameters(self, node: str, *names: str) -> list[Any]:
        response = self.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=names))
        return [parameter_value_to_python(value) for value in response.values]

    def state(self, node: str) -> str:
        return str(self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label)

    def until(self, condition: Any) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, "this has not come"
            self.executor.spin_once(timeout_sec=0.05)

    def subscribed(self, node: str) -> set[str]:
        namespace, _, name = node.rpartition("/")
        return {topic for topic, _ in self.node.get_subscriber_names_and_types_by_node(name, namespace)}


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.node.destroy_node()
    rclpy.shutdown(context=client.context)


@pytest.mark.parametrize("name", ["robobrain.launch.py", "demo.launch.py"])
def test_every_argument_is_described(name: str) -> None:
    """--show-args describes everything that a user needs."""
    arguments = re.findall(r"^    '(\w+)':\n        (.*)\n", launch(name, "--show-args").stdout, re.MULTILINE)
    assert {"model", "params_file", "namespace", "rviz"} <= {argument for argument, _ in arguments}
    assert all(description[0].isupper() and "." in description for _, description in arguments), arguments


def test_arguments_reach_the_node_and_an_interruption_leaves_nothing(client: Client, tmp_path: Path) -> None:
    """Each argument reaches its node. Values of the parameter file stay where no argument replaces them."""
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n    max_tokens: 77\n    engine:\n      seed: 5\n      model: /file\n")
    arguments = [
        f"params_file:={file}",
        f"model:={tmp_path}/nothing",
        "namespace:=/launched/one",
        "image_topic:=/front/image_raw/compressed",
        "depth_topic:=/front/aligned_depth",
        "target_frame:=base_link",
        "model_profile:=robobrain2.0",
        "use_sim_time:=true",
        "log_level:=debug",
    ]
    node = "/launched/one/robobrain"
    with launched(tmp_path / "log", "robobrain.launch.py", *arguments) as it:
        names = "engine.model", "engine.seed", "max_tokens", "camera.transport", "use_sim_time", "autostart"
        assert client.parameters(node, *names) == [f"{tmp_path}/nothing", 5, 77, "compressed", True, True]
        assert client.parameters(node, "camera.use_depth", "target_frame", "model_profile") == [True, "base_link", "robobrain2.0"]
        client.until(lambda: client.state(node) == "active")
        assert {"/front/image_raw/compressed", "/front/aligned_depth"} <= client.subscribed(node)
        client.until(lambda: "could not be loaded" in it.said())
    assert it.code == 0
    assert it.processes
    assert not psutil.wait_procs(it.processes, timeout=LIMIT)[1]
    assert "Traceback" not in it.said()
    assert "finished cleanly" in it.said()
    assert "[DEBUG]" in it.said()
    assert not re.search(r"\[DEBUG\].*\[rcl\]", it.said()), "rcl's lines would bury the node's"


def test_a_preset_applies_below_the_parameter_file(client: Client, tmp_path: Path) -> None:
    """A value of the file counts as set, even if it equals the default. An empty quantization selects that of the preset."""
    file = tmp_path / "parameters.yaml"
    values = {"max_model_len": 4096, "max_num_seqs": 16, "model": "", "quantization": ""}
    lines = "".join(f"      {name}: {value!r}\n" for name, value in values.items())
    file.write_text(f"/**:\n  ros__parameters:\n    engine:\n{lines}")
    names = "engine.model", "engine.quantization", "engine.max_model_len", "engine.max_num_seqs"
    node = "/launched_model/robobrain"
    arguments = ["namespace:=launched_model", "model:=robobrain2.0-32b-fp8", "autostart:=false"]
    with launched(tmp_path / "log", "robobrain.launch.py", *arguments):
        assert client.parameters(node, *names) == ["robobrain2.0-32b-fp8", "fp8_per_tensor", 8192, 8]
    with launched(tmp_path / "log", "robobrain.launch.py", *arguments, f"params_file:={file}"):
        assert client.parameters(node, *names) == ["robobrain2.0-32b-fp8", "fp8_per_tensor", 4096, 16]


def test_a_users_own_model_file_is_found_by_its_name(client: Client, tmp_path: Path) -> None:
    own = Path(get_package_share_directory("robobrain_ros")) / "config" / "models" / "test_of_an_own_model.yaml"
    own.parent.mkdir(exist_ok=True)
    own.write_text("/**:\n  ros__parameters:\n    engine:\n      model: /models/own\n      max_num_seqs: 5\n")
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n    engine:\n      model: ''\n      seed: 5\n")
    arguments = ["namespace:=launched_own", "model:=Test_of_an_own_model", "autostart:=false", f"params_file:={file}"]
    try:
        with launched(tmp_path / "log", "robobrain.launch.py", *arguments):
            names = "engine.model", "engine.max_num_seqs", "engine.seed"
            assert client.parameters("/launched_own/robobrain", *names) == ["/models/own", 5, 5]
    finally:
        own.unlink()


def test_the_parameter_file_counts_where_no_argument_is_given(client: Client, tmp_path: Path) -> None:
    """The default of an argument must not override the parameter file."""
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n    autostart: false\n    use_sim_time: true\n")
    node = "/launched_file/robobrain"
    with launched(tmp_path / "log", "robobrain.launch.py", f"params_file:={file}", "namespace:=launched_file") as it:
        assert client.parameters(node, "autostart", "use_sim_time", "engine.model") == [False, True, ""]
        assert client.parameters(node, "camera.use_depth", "target_frame") == [False, ""]
        assert client.state(node) == "unconfigured"
    assert it.code == 0


def test_the_transport_profile_reaches_both_nodes(client: Client, tmp_path: Path) -> None:
    """The camera needs the profile most, and the demo uses it by default. Simulated time and log level reach both nodes too."""
    arguments = ["namespace:=launched_profile", f"model:={tmp_path}/nothing", "use_sim_time:=true", "log_level:=error"]
    with launched(tmp_path / "log", "demo.launch.py", *arguments) as it:

        def told() -> set[str]:
            found = set()
            for process in it.process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if process.environ().get(profile_variable(), "").endswith("/config/fastdds_large.xml"):
                        found |= {part for part in ("demo_camera", "robobrain") if f"/{part}" in " ".join(process.cmdline())}
            return found

        client.until(lambda: told() == {"demo_camera", "robobrain"})
        # When interrupted, `ros2 launch` does not stop a process whose start is still in progress.
        for node in ("demo_camera", "robobrain"):
            assert client.parameters(f"/launched_profile/{node}", "use_sim_time") == [True]
        assert not re.search(r"\[INFO\].*\[launched_profile", it.said())
    assert it.code == 0


def test_a_wrong_parameter_ends_the_launch_with_the_sentence(tmp_path: Path) -> None:
    """The launch must not continue without its node."""
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n    max_tokens: 0\n")
    said = launch("robobrain.launch.py", f"params_file:={file}", "namespace:=launched_wrong").stdout
    assert "A parameter is wrong: Parameter max_tokens out of range" in said
    assert "process has died" in said


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("params_file:=/nowhere.yaml", "there is no file /nowhere.yaml"),
        ("transport_profile:=/nowhere.xml", "there is no file /nowhere.xml"),
        ("autostart:=maybe", "'maybe' is not valid"),
    ],
)
def test_a_wrong_launch_argument_is_reported(argument: str, said: str) -> None:
    """A missing parameter file is the main case: the node would start without it, with the demo model."""
    done = launch("robobrain.launch.py", argument)
    assert done.returncode != 0
    assert said in done.stdout.replace('"', "'")


def test_a_wrong_argument_of_the_demo_leaves_nothing_running() -> None:
    """The node must not run without its camera."""
    assert launch("demo.launch.py", "seed:=red", "namespace:=launched_seed").returncode != 0
    assert [it for it in psutil.process_iter(["cmdline"]) if "__ns:=/launched_seed" in (it.info["cmdline"] or [])] == []


@pytest.mark.parametrize("name", ["robobrain.launch.py", "demo.launch.py"])
def test_where_rviz_is_missing_nothing_is_left_running(name: str) -> None:
    """The launch ends. A node that it had already started would otherwise keep running."""
    if "rviz2" in get_packages_with_prefixes():
        pytest.skip("rviz2 is installed")
    done = launch(name, "rviz:=true", "namespace:=launched_rviz", "model:=/nowhere")
    assert done.returncode != 0
    assert "package 'rviz2' not found" in done.stdout
    assert [it for it in psutil.process_iter(["cmdline"]) if "__ns:=/launched_rviz" in (it.info["cmdline"] or [])] == []
