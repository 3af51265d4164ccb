"""The set-up script: which ROS 2 from PyPI it installs, and when it creates a new environment."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def setup_env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Return the script as a module, with its own empty environment."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    specification = importlib.util.spec_from_file_location("setup_env", REPOSITORY / "scripts" / "setup_env.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "setup_env", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "STAMP", tmp_path / "stamp.json")
    monkeypatch.setattr(module, "PYTHON", Path(sys.executable))
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    monkeypatch.setenv("AMENT_PREFIX_PATH", "")
    return module


def target_of(module: ModuleType, ros: str = "") -> object:
    return module.choose_target(sys.executable, "none", ros)[0]


def pins(name: str) -> dict[str, str]:
    text = (REPOSITORY / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^(ros-[a-z-]+)(?:\[.*\])?==(\S+)$", text, re.MULTILINE))


def test_jazzy_is_the_default_and_a_choice_is_kept(setup_env: ModuleType) -> None:
    assert target_of(setup_env).ros_from_pypi == "jazzy"  # type: ignore[attr-defined]
    kilted = target_of(setup_env, "kilted")
    assert kilted.ros_from_pypi == "kilted"  # type: ignore[attr-defined]
    setup_env.STAMP.write_text(json.dumps(setup_env.fingerprint(kilted)))
    assert target_of(setup_env) == kilted
    assert setup_env.read_stamp() == setup_env.fingerprint(kilted)


def test_another_ros_recreates_the_environment(setup_env: ModuleType) -> None:
    """An environment of an older version of the script, whose file does not name the ROS distribution, is for Jazzy."""
    jazzy = target_of(setup_env)
    old = setup_env.fingerprint(jazzy)
    del old["target"]["ros_from_pypi"]
    setup_env.STAMP.write_text(json.dumps(old))
    assert setup_env.fits(jazzy)
    assert not setup_env.fits(target_of(setup_env, "kilted"))


def test_a_requested_ros_that_contradicts_the_sourced_ros_is_rejected(
    setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "share" / "rclpy").mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    with pytest.raises(setup_env.SetupError, match="ROS=kilted is set, but ROS 2 jazzy is sourced"):
        target_of(setup_env, "kilted")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(
    ("rclpy_in_venv", "sourced", "message"),
    [
        (True, "", ""),
        (False, "jazzy", ""),
        (True, "jazzy", "ROS 2 jazzy is sourced, but .venv contains ROS 2 from PyPI"),
        (False, "", "set up for a sourced ROS"),
        (None, "", "There is no environment"),
    ],
)
def test_the_shell_uses_either_the_sourced_ros_or_that_of_the_environment(
    tmp_path: Path, shell: str, rclpy_in_venv: bool | None, sourced: str, message: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "clone" / "scripts" / "env.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(REPOSITORY / "scripts" / "env.sh", script)
    (tmp_path / "ros" / "share" / "rclpy").mkdir(parents=True)
    if rclpy_in_venv is not None:
        activate = tmp_path / "clone" / ".venv" / "bin" / "activate"
        activate.parent.mkdir(parents=True)
        activate.write_text("ACTIVE=yes")
    if rclpy_in_venv:
        (tmp_path / "clone" / ".venv" / "share" / "rclpy").mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("ROS_DISTRO", "AMENT_PREFIX_PATH")}
    if sourced:
        environment |= {"ROS_DISTRO": sourced, "AMENT_PREFIX_PATH": f"/nothing:{tmp_path / 'ros'}"}
    command = f'. {shlex.quote(str(script))}; echo "code=$? active=${{ACTIVE:-no}}"'
    done = subprocess.run([shell, "-c", command], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ("code=1 active=no" if message else "code=0 active=yes")
    assert message in done.stderr
    assert bool(done.stderr) is bool(message)


def test_both_distributions_pin_the_same_packages() -> None:
    """The builds differ. ament_cmake_ros of Kilted is two packages."""
    jazzy, kilted = pins("ros"), pins("ros-kilted")
    assert kilted.keys() - jazzy.keys() == {"ros-ament-cmake-ros-core"}
    assert jazzy.keys() <= kilted.keys()
    newer = {name for name in jazzy if [*map(int, kilted[name].split("."))] > [*map(int, jazzy[name].split("."))]}
    assert jazzy.keys() - newer == {"ros-python-cmake-module"}


def requirements_of(name: str, python: str) -> list[Requirement]:
    """Return the requirements of a file that apply to a version of Python."""
    lines = (line.partition(" #")[0].strip() for line in (REPOSITORY / "requirements" / f"{name}.txt").read_text().splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [each for each in found if each.marker is None or each.marker.evaluate({"python_version": python})]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_each_pin_fits_the_packages_requirement(python: str) -> None:
    """This holds for each version of Python. The numpy version for older Python has no wheels for Python 3.14."""
    pinned: dict[str, str] = {}
    for pin in requirements_of("constraints", python):
        assert pin.name not in pinned
        (pinned[pin.name],) = (specifier.version for specifier in pin.specifier)
    required = requirements_of("base", python)
    assert "numpy" in [each.name for each in required]
    for each in required:
        assert each.specifier.contains(pinned[each.name.lower()]), each


def test_freezing_keeps_lines_with_markers(setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import freeze

    marked = ['numpy==1.0; python_version < "3.14"', 'numpy==2.0; python_version >= "3.14"']
    monkeypatch.setattr(freeze, "CONSTRAINTS", tmp_path / "constraints.txt")
    freeze.CONSTRAINTS.write_text("\n".join([*marked, "not-installed-here==3.0", "pytest==0.1"]))
    freeze.main()
    written = freeze.CONSTRAINTS.read_text().splitlines()
    assert [line for line in written if line.startswith("numpy==")] == marked
    assert "not-installed-here==3.0" in written
    assert f"pytest=={pytest.__version__}" in written
