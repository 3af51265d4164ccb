"""The installed files equal those of the repository, and the package declares the dependencies that it uses."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ament_index_python.packages import get_package_prefix

import robobrain_ros
from robobrain_ros.cli import ros_programs

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "robobrain_ros"
MANIFEST = ElementTree.parse(REPOSITORY / "package.xml").getroot()
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "PyYAML", "tf2_ros": "tf2_ros_py"}
"""Modules whose distribution has a different name."""
ENGINE = {
    "openai",
    "vllm",
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "tqdm",
    "flag_gems",
    "modelscope",
    "uvicorn",
    "h11",
    "jinja2",
}
"""Packages that come with the set-up of an engine; see requirements/engine-*.txt and flagos.txt."""


def source_files() -> list[Path]:
    """Return every file of the Python package that git would include, relative to the package."""
    found = (path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(SOURCE) for path in found)


def executables() -> dict[str, str]:
    """Return the programs of executables.txt as name and module:function."""
    lines = (REPOSITORY / "executables.txt").read_text().splitlines()
    return dict(line.split(" = ") for line in lines if line and not line.startswith("#"))


def imported_packages(path: Path) -> Iterator[str]:
    """Return the names of all top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def required(name: str) -> set[str]:
    """Return the names in requirements/NAME.txt."""
    lines = (REPOSITORY / "requirements" / f"{name}.txt").read_text().splitlines()
    return {line.split("[")[0].split("=")[0].split(">")[0].split("<")[0].strip() for line in lines if line and line[0] != "#"}


def test_every_source_file_is_installed() -> None:
    installed = Path(robobrain_ros.__file__).parent
    assert installed != SOURCE
    missing = [path for path in source_files() if not (installed / path).is_file()]
    assert missing == [], "run `make build`"


@pytest.mark.parametrize("folder", ["launch", "config", "rviz"])
def test_shared_files_are_installed(folder: str) -> None:
    files = [
        path.relative_to(REPOSITORY)
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".xml", ".rviz")
    ]
    share = Path(get_package_prefix("robobrain_ros"), "share", "robobrain_ros")
    assert [path for path in files if not (share / path).is_file()] == []


@pytest.mark.parametrize("name", executables())
def test_each_program_is_installed_and_exists(name: str) -> None:
    """`ros2 run robobrain_ros NAME` starts it with the Python that runs these tests."""
    program = Path(get_package_prefix("robobrain_ros"), "lib", "robobrain_ros", name)
    assert os.access(program, os.X_OK)
    interpreter = Path(program.read_text().splitlines()[0].removeprefix("#!"))
    assert interpreter.parent == Path(sys.executable).parent
    module, function = executables()[name].split(":")
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("name", executables())
def test_each_command_of_pip_exists_in_a_build_too(name: str) -> None:
    command = "robobrain" if name == "robobrain" else f"robobrain-{name.replace('_', '-')}"
    prefix = Path(get_package_prefix("robobrain_ros"))
    assert (prefix / "bin" / command).read_text() == (prefix / "lib" / "robobrain_ros" / name).read_text()


def test_package_xml_is_valid() -> None:
    catkin_package = pytest.importorskip("catkin_pkg.package")
    manifest = catkin_package.parse_package(REPOSITORY)
    assert manifest.get_build_type() == "ament_cmake"
    assert manifest.licenses == ["Apache-2.0"]
    assert (REPOSITORY / manifest.licenses[0].file).read_text().lstrip().startswith("Apache License")


def test_the_changelog_begins_with_the_version_and_its_date() -> None:
    text = (REPOSITORY / "CHANGELOG.rst").read_text(encoding="utf-8")
    heading = re.search(r"^(\S+) \((\d{4}-\d\d-\d\d)\)\n-+$", text, re.MULTILINE)
    assert heading is not None
    assert heading[1] == MANIFEST.findtext("version")
    assert text[heading.end() :].lstrip().startswith("Highlights:")


def test_every_imported_package_is_required() -> None:
    """Dependencies are declared by package.xml or by a requirements file."""
    declared = {element.text for element in MANIFEST if element.tag.endswith("depend")}
    declared |= required("base") | ENGINE | set(sys.stdlib_module_names) | {"robobrain_ros"}
    declared |= required("tools") & {"matplotlib"}  # Only plots need it.
    declared |= required("test") & {"py_trees"}  # Only the behaviours need it.
    declared |= required("live") | {"websockets", "msgspec"}  # viser requires these two.
    declared |= required("bags") | {"pyarrow"}  # Only the bag program needs them.
    imported = {name: path for path in source_files() if path.suffix == ".py" for name in imported_packages(SOURCE / path)}
    unasked = {name: str(path) for name, path in imported.items() if DISTRIBUTIONS.get(name, name) not in declared}
    assert unasked == {}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Return the wheel that `pip install .` installs, built from a copy of the repository's files."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "package.xml", "executables.txt"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("robobrain_ros", "requirements"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, timeout=240)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield archive


def test_pip_installs_the_same_code(wheel: zipfile.ZipFile) -> None:
    packaged = {name.removeprefix("robobrain_ros/") for name in wheel.namelist() if name.startswith("robobrain_ros/")}
    assert [str(path) for path in source_files() if str(path) not in packaged] == []


def test_pip_installs_the_same_programs_under_names_of_this_package(wheel: zipfile.ZipFile) -> None:
    """A general name such as `ask` on the PATH could be mistaken for another program."""
    entry_points = ConfigParser()
    entry_points.read_string(next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("entry_points.txt")))
    scripts = dict(entry_points["console_scripts"])
    assert sorted(scripts.values()) == sorted(executables().values())
    assert {"robobrain", "robobrain-ask", "robobrain-check-consistency", "robobrain-demo-camera"} <= set(scripts)
    assert all(name == "robobrain" or name.startswith("robobrain-") for name in scripts)


def test_pip_knows_the_version_of_package_xml(wheel: zipfile.ZipFile) -> None:
    metadata = next(wheel.read(name).decode() for name in wheel.namelist() if name.endswith("METADATA"))
    assert f"\nVersion: {MANIFEST.findtext('version')}\n" in metadata


def test_the_pytest_plugins_of_ros_are_switched_off(tmp_path: Path) -> None:
    """Two pytest plugins of ROS end pytest 9 before the first test, because one of their hooks has a removed argument."""
    hooks = "import pytest\n\n@pytest.hookimpl(optionalhook=True)\ndef pytest_configure(config, path): pass\n"
    names = ["launch_testing", "launch_ros", "launch_pytest", "ament_copyright", "ament_flake8", "ament_lint", "ament_mypy",
             "ament_pep257", "ament_xmllint"]  # fmt: skip
    information = tmp_path / "ros_plugins-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ros-plugins\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{name} = hooks_of_{name}\n" for name in names))
    for name in names:
        (tmp_path / f"hooks_of_{name}.py").write_text(hooks)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "test/test_core_grammars.py"],
        cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", executables())
def test_each_program_that_needs_ros_ends_with_a_sentence_where_there_is_none(name: str, tmp_path: Path) -> None:
    """This is the state after `pip install .`: the code is installed, but rclpy is not."""
    module, function = executables()[name].split(":")
    if not module.endswith("ros_programs"):
        pytest.skip("it works without ROS")
    (tmp_path / "rclpy.py").write_text("raise ModuleNotFoundError(\"No module named 'rclpy'\")")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from {module} import {function}; {function}()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, cwd="/")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{name} needs ROS 2, which this Python cannot use (No module named 'rclpy').")
    assert "make build" in done.stderr
    assert "Traceback" not in done.stderr
    assert (REPOSITORY / ros_programs.DOCUMENTATION).is_file()
