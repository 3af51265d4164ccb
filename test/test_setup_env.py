"""The set-up script: which ROS 2 from PyPI it takes, and when it makes the environment anew."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def setup_env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, with an environment of its own in which nothing is yet."""
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


def test_another_ros_makes_the_environment_anew(setup_env: ModuleType) -> None:
    """And one of an older version of the script, whose file does not name the ROS, is Jazzy's."""
    jazzy = target_of(setup_env)
    old = setup_env.fingerprint(jazzy)
    del old["target"]["ros_from_pypi"]
    setup_env.STAMP.write_text(json.dumps(old))
    assert setup_env.fits(jazzy)
    assert not setup_env.fits(target_of(setup_env, "kilted"))


def test_a_wish_that_contradicts_the_sourced_ros_is_named(
    setup_env: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "share" / "rclpy").mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    with pytest.raises(setup_env.SetupError, match="ROS=kilted is wanted, but ROS 2 jazzy is sourced"):
        target_of(setup_env, "kilted")


def test_both_distributions_pin_the_same_packages() -> None:
    """Each at its own build; Kilted's ament_cmake_ros is two packages."""
    jazzy, kilted = pins("ros"), pins("ros-kilted")
    assert kilted.keys() - jazzy.keys() == {"ros-ament-cmake-ros-core"}
    assert jazzy.keys() <= kilted.keys()
    newer = {name for name in jazzy if [*map(int, kilted[name].split("."))] > [*map(int, jazzy[name].split("."))]}
    assert jazzy.keys() - newer == {"ros-python-cmake-module"}
