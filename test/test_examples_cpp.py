"""The programs of examples/cpp: built against the installed interfaces, and run. Each needs a package that PyPI does not have."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from ros_rig import LIMIT, scripted
from test_core_behavior_tree import FIXED, STEPS, steps_of

from robobrain_ros.core.plans.behavior_tree import behavior_tree
from robobrain_ros.core.query import PlanStep
from robobrain_ros.srv import Locate

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "cpp"
PLAN = [
    PlanStep(1, "Pick up the yellow block.", "arm", "pick", '{"object": "yellow block"}'),
    PlanStep(
        2,
        "Place the yellow block in the green bowl.",
        "arm",
        "place",
        '{"object": "yellow block", "relation": "in", "place": "green bowl"}',
    ),
]
"""The plan in examples/cpp/plan.xml."""


def is_found(package: str) -> bool:
    """Return whether CMake finds this package."""
    prefixes = [each for name in ("CMAKE_PREFIX_PATH", "AMENT_PREFIX_PATH") for each in os.environ.get(name, "").split(":")]
    return any(Path(each, folder).is_dir() for each in prefixes for folder in (f"share/{package}/cmake", f"lib/cmake/{package}"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """Return a function that builds a program, and returns its path. It skips the test if a package is missing."""
    folder = tmp_path_factory.mktemp("examples")

    def build(name: str, package: str) -> str:
        if not is_found(package):
            pytest.skip(f"{package} is not installed, so {name} cannot be built.")
        for command in (["-S", str(EXAMPLES), "-B", str(folder)], ["--build", str(folder), "-t", name]):
            done = subprocess.run(["cmake", *command], capture_output=True, text=True, timeout=4 * LIMIT, check=False)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return str(folder / name)

    return build


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=LIMIT, check=False)


@pytest.mark.timeout(10 * LIMIT)
def test_the_point_client_prints_the_answer_of_a_node(program: Callable[[str, str], str]) -> None:
    path = program("point_client", "rclcpp")
    for answer, code in (("[(10, 12), (30, 40)]", 0), ("[]", 1)):
        with scripted(answer, max_image_age=0.0) as (it, engine):
            environment = os.environ | {"ROS_DOMAIN_ID": str(it.context.get_domain_id())}
            command = [path, "the red mug", "--ros-args", "-r", f"__ns:={it.client.get_namespace()}"]
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                it.until(lambda: process.poll() is not None, "the end of the client")
                output, errors = process.communicate()
            assert process.returncode == code, errors
            assert "the red mug" in engine.generations[0].user_text
            points = it.call(Locate, "point", Locate.Request(instruction="the red mug")).affordances.points
            assert len(points) == (2 if code == 0 else 0)
        if code == 0:
            assert output == "".join(f"the red mug: u={point.u:g} v={point.v:g}\n" for point in points)
        else:
            assert (output, "found nothing" in errors) == ("", True)
    assert run(path).returncode == 2


def skills_of(tree: str) -> list[str]:
    """Return the arguments of run_plan that register the skills of a tree."""
    models = ElementTree.fromstring(tree).findall("TreeNodesModel/Action")
    ports = {str(model.get("ID")): [str(port.get("name")) for port in model] for model in models}
    return [f"{skill}:{','.join(name for name in names if name not in FIXED)}" for skill, names in ports.items()]


def check_plan(path: str, steps: Sequence[PlanStep], file: Path) -> None:
    """Run a plan with BehaviorTree.CPP, and check that each step has run with its values."""
    tree = behavior_tree(steps)
    file.write_text(tree, encoding="utf-8")
    done = run(path, str(file), *skills_of(tree))
    assert done.returncode == 0, done.stderr + tree
    wanted = set()
    for action in ElementTree.fromstring(tree).findall("BehaviorTree//Action"):
        wanted.add(f"{action.get('name')} {action.get('ID')}")
        wanted |= {f"  {name}={value}" for name, value in action.items() if name not in ("ID", "name")}
    *lines, status = done.stdout.split("\n")[:-1]
    assert (set(lines), status) == (wanted, "SUCCESS")


@pytest.mark.timeout(10 * LIMIT)
def test_behaviortree_cpp_runs_every_plan_with_its_values(program: Callable[[str, str], str], tmp_path: Path) -> None:
    path = program("run_plan", "behaviortree_cpp")
    check_plan(path, PLAN, tmp_path / "plan.xml")
    parallel = [PlanStep(1, "Go.", "a", "go"), PlanStep(1, "Stop.", "b", "stop"), PlanStep(2, "Wait.")]
    check_plan(path, parallel, tmp_path / "plan.xml")

    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(STEPS)
    def every(items: list[tuple[int, str, str, str, dict[str, object]]]) -> None:
        check_plan(path, steps_of(items), tmp_path / "plan.xml")

    every()


@pytest.mark.timeout(10 * LIMIT)
def test_behaviortree_cpp_rejects_a_plan_with_an_unknown_skill(program: Callable[[str, str], str]) -> None:
    path = program("run_plan", "behaviortree_cpp")
    done = run(path, str(EXAMPLES / "plan.xml"), "pick:object")
    assert done.returncode == 1
    assert "Node not recognized: place" in done.stderr


def test_the_plan_of_the_page_is_up_to_date() -> None:
    assert (EXAMPLES / "plan.xml").read_text(encoding="utf-8") == behavior_tree(PLAN)
    assert json.loads(PLAN[1].arguments)["relation"] == "in"
