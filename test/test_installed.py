"""Tests run only against a build of their own checkout, and otherwise stop with one message."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from installed import installation_fault

REPOSITORY = Path(__file__).resolve().parent.parent


def make_checkout(folder: Path) -> Path:
    """Create the sources of a small package in a checkout of that name."""
    source = folder / "robobrain_ros"
    (source / "core").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "core/__init__.py"):
        (source / name).write_text(f"NAME = {name!r}\n")
    return source


def install(source: Path, target: Path, copy: Callable[[Path, Path], object]) -> Path:
    """Install the sources as links or as copies."""
    for path in source.rglob("*.py"):
        (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        copy(path, target / path.relative_to(source))
    return target


def link(path: Path, target: Path) -> None:
    target.symlink_to(path)


@pytest.mark.parametrize("copy", [link, shutil.copy])
def test_a_build_of_this_checkout_is_accepted(tmp_path: Path, copy: Callable[[Path, Path], object]) -> None:
    source = make_checkout(tmp_path / "first")
    assert installation_fault(install(source, tmp_path / "install", copy), source) == ""


def test_a_build_of_another_checkout_is_rejected(tmp_path: Path) -> None:
    first, second = make_checkout(tmp_path / "first"), make_checkout(tmp_path / "second")
    fault = installation_fault(install(first, tmp_path / "install", link), second)
    assert str(tmp_path / "first") in fault
    assert str(tmp_path / "second") in fault


@pytest.mark.parametrize("copy", [link, shutil.copy])
def test_a_build_without_a_new_module_is_rejected(tmp_path: Path, copy: Callable[[Path, Path], object]) -> None:
    source = make_checkout(tmp_path / "first")
    installed = install(source, tmp_path / "install", copy)
    (source / "core" / "new.py").write_text("")
    fault = installation_fault(installed, source)
    assert "robobrain_ros/core/new.py" in fault
    assert "make build" in fault


def test_a_copy_with_other_contents_is_rejected(tmp_path: Path) -> None:
    source = make_checkout(tmp_path / "first")
    installed = install(source, tmp_path / "install", shutil.copy)
    (source / "errors.py").write_text("NAME = 'new'\n")
    assert "robobrain_ros/errors.py" in installation_fault(installed, source)


def test_a_copy_with_a_module_that_was_removed_is_rejected(tmp_path: Path) -> None:
    source = make_checkout(tmp_path / "first")
    installed = install(source, tmp_path / "install", shutil.copy)
    (installed / "msg").mkdir()
    (installed / "msg" / "__init__.py").write_text("")
    assert installation_fault(installed, source) == ""
    (source / "errors.py").unlink()
    fault = installation_fault(installed, source)
    assert "robobrain_ros/errors.py" in fault
    assert "make clean build" in fault


def test_pytest_stops_with_a_sentence_in_a_second_clone(tmp_path: Path) -> None:
    """The clone's tests import the package that this checkout has installed."""
    source = make_checkout(tmp_path / "clone")
    (tmp_path / "clone" / "test").mkdir()
    for name in ("conftest.py", "installed.py", "test_core_grammars.py"):
        shutil.copy(REPOSITORY / "test" / name, tmp_path / "clone" / "test")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test"],
        cwd=tmp_path / "clone", env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert str(source.parent) in done.stdout + done.stderr
    assert "make build" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
