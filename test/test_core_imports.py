"""The core and the engines are free of ROS, and importing the core loads nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "robobrain_ros"
ROS = {"rclpy", "cv_bridge", "tf2_ros", "launch", "launch_ros", "ament_index_python", "rcl_interfaces", "rosidl_runtime_py"}
GENERATED = {"robobrain_ros.msg", "robobrain_ros.srv", "robobrain_ros.action"}
NEUTRAL = ("errors", "files", "control_tokens")
"""Modules beside the core and the engines, which both use."""
HEAVY = {"vllm", "torch", "transformers", "openai", "flag_gems"}


def imported_modules(source: str) -> Iterator[str]:
    """Every module that a source imports, at any place in it; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)


def is_ros(module: str) -> bool:
    top = module.split(".")[0]
    return (
        top in ROS
        or top.endswith(("_msgs", "_srvs"))
        or any(module == generated or module.startswith(generated + ".") for generated in GENERATED)
    )


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (SOURCES / folder).rglob("*.py"))


def test_the_rule_knows_ros_when_it_sees_it() -> None:
    seen = imported_modules("def f():\n import rclpy.node\n from sensor_msgs.msg import Image\nfrom robobrain_ros import msg\n")
    assert {module for module in seen if is_ros(module)} == {
        "rclpy.node",
        "sensor_msgs.msg",
        "sensor_msgs.msg.Image",
        "robobrain_ros.msg",
    }


@pytest.mark.parametrize(
    "path", [*sources("core", "engine"), *(SOURCES / f"{name}.py" for name in NEUTRAL)], ids=lambda path: path.name
)
def test_core_and_engines_import_no_ros(path: Path) -> None:
    assert not [module for module in imported_modules(path.read_text()) if is_ros(module)]


@pytest.mark.parametrize("path", sources("core"), ids=lambda path: path.name)
def test_core_imports_of_the_package_only_itself_the_errors_and_the_engine_protocol(path: Path) -> None:
    own = [module for module in imported_modules(path.read_text()) if within(module, "robobrain_ros")]
    allowed = ("robobrain_ros.core", "robobrain_ros.engine.base", *(f"robobrain_ros.{name}" for name in NEUTRAL))
    assert not [module for module in own if not within(module, *allowed) and module != "robobrain_ros.engine"]


@pytest.mark.parametrize("path", sources("engine"), ids=lambda path: path.name)
def test_engines_know_no_tasks(path: Path) -> None:
    """The bounds of schemas are checks of plain values: they know no tasks either."""
    imported = [m for m in imported_modules(path.read_text()) if not within(m, "robobrain_ros.core.constraint_bounds")]
    assert not [m for m in imported if within(m, "robobrain_ros.core", "robobrain_ros.ros")]


def test_importing_the_core_loads_nothing_heavy_and_no_ros() -> None:
    program = "import sys, robobrain_ros.core, robobrain_ros.core.overlay; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.split()
    assert "robobrain_ros.core.brain" in loaded
    assert not [module for module in loaded if module.split(".")[0] in HEAVY or is_ros(module)]
