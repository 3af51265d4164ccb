"""The layers of the package: allowed imports, no cycles, no ROS in the core, and no slow imports of large packages."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "robobrain_ros"
ROS = {"rclpy", "cv_bridge", "tf2_ros", "launch", "launch_ros", "ament_index_python", "rcl_interfaces", "rosidl_runtime_py"}
GENERATED = {"robobrain_ros.msg", "robobrain_ros.srv", "robobrain_ros.action"}
MOST_LINES = 450
HEAVY = {"vllm", "torch", "transformers", "openai", "flag_gems"}


def imported_modules(source: str) -> Iterator[str]:
    """Return every module that a source imports, at any place. `from a import b` yields a and a.b."""
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


def test_the_import_rule_detects_ros_packages() -> None:
    seen = imported_modules("def f():\n import rclpy.node\n from sensor_msgs.msg import Image\nfrom robobrain_ros import msg\n")
    assert {module for module in seen if is_ros(module)} == {
        "rclpy.node",
        "sensor_msgs.msg",
        "sensor_msgs.msg.Image",
        "robobrain_ros.msg",
    }


LAYERS: dict[str, tuple[str, ...]] = {
    "errors": (),
    "bounds": ("errors",),
    "core": ("errors", "bounds", "engine.base"),
    "engine": ("errors", "bounds"),
    "local": ("errors", "bounds", "core", "engine"),
    "bags": ("errors", "bounds", "core"),
    "ros": ("errors", "bounds", "core", "engine", "msg", "srv", "action"),
    "behaviours": ("errors", "bounds", "core", "ros", "msg", "srv", "action"),
    "cli": ("errors", "bounds", "core", "engine", "local", "ros", "bags", "demo", "evaluation", "msg", "srv", "action"),
    "evaluation": ("errors", "bounds", "core", "engine", "local", "ros", "demo", "cli.progress", "msg", "srv", "action"),
    "demo": ("errors", "bounds", "core", "engine", "local", "ros", "bags", "evaluation", "cli.progress", "msg", "srv", "action"),
    "live": ("errors", "bounds", "core", "engine", "local", "ros", "demo", "msg", "srv", "action"),
}
"""The packages that each part of the package can import, in addition to itself."""
WITHOUT_ROS = ("errors", "bounds", "core", "engine", "local", "bags")


def modules() -> dict[str, Path]:
    """Return every module of the package, without the package's own name, such as ``core.brain``."""
    names = {path: path.relative_to(SOURCES).with_suffix("").as_posix().replace("/", ".") for path in SOURCES.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items() if name != "__init__"}


def own_imports(path: Path) -> set[str]:
    """Return the modules of the package that a file imports. Imports for type checking do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    own = [module for module in imported_modules(ast.unparse(tree)) if within(module, "robobrain_ros")]
    found, known = {module.removeprefix("robobrain_ros.") for module in own}, modules()
    return {module for module in found if module in known or within(module, "msg", "srv", "action")}


@pytest.mark.parametrize("name", sorted(modules()))
def test_each_part_imports_only_what_lies_below_it(name: str) -> None:
    part = name.split(".")[0]
    imported = own_imports(modules()[name])
    packages = {".".join(module.split(".")[:n]) for module in imported for n in range(1, len(module.split(".")))}
    wrong = [m for m in imported - packages if not within(m, part, *LAYERS[part])]
    assert not wrong, f"{name} imports {wrong}, but `{part}` may import {LAYERS[part]} only"


@pytest.mark.parametrize("name", [name for name in sorted(modules()) if within(name, *WITHOUT_ROS)])
def test_core_and_engines_import_no_ros(name: str) -> None:
    assert not [module for module in imported_modules(modules()[name].read_text(encoding="utf-8")) if is_ros(module)]


def test_modules_have_no_import_cycles() -> None:
    known = modules()
    graph = {name: {m for m in own_imports(path) if m in known} - {name} for name, path in known.items()}
    # Importing a module also imports its package. Imports of the package itself count only if a module names it.
    for name in list(graph):
        graph[name] = {m for m in graph[name] if not any(other != m and within(other, m) for other in graph[name])}
    order = TopologicalSorter(graph)
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_importing_the_core_loads_neither_ros_nor_large_packages() -> None:
    program = "import sys, robobrain_ros.core, robobrain_ros.core.overlay; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.split()
    assert "robobrain_ros.core.brain" in loaded
    assert not [module for module in loaded if module.split(".")[0] in HEAVY or is_ros(module)]


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_files_have_at_most_450_lines() -> None:
    repository = SOURCES.parent
    folders = ("robobrain_ros", "launch", "examples", "scripts", "benchmark", "training", "test")
    files = [path for folder in folders for path in (repository / folder).rglob("*.py")]
    long = {str(path.relative_to(repository)) for path in files if lines_of(path) > MOST_LINES}
    assert long == set()
    assert lines_of(SOURCES / "ros" / "node.py") < 300


def test_the_embedded_engine_is_short() -> None:
    tree = ast.parse((SOURCES / "engine" / "embedded" / "engine.py").read_text(encoding="utf-8"))
    engine = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EmbeddedEngine")
    assert engine.end_lineno is not None
    assert engine.end_lineno - engine.lineno < 250
