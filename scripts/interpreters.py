"""Find the Python with which setup_env.py creates the environment. Both files run under any Python from 3.9."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

PYTHON_VERSIONS = ((3, 12), (3, 11))
"""Versions with which this package is tested."""
UNTESTED_PYTHON_VERSIONS = ((3, 13), (3, 14))
"""Versions with wheels of vLLM. They are used only if the user or the sourced ROS requires them."""

INSPECTION = """
import json, os, sys, sysconfig
from importlib.util import find_spec
print(json.dumps({
    "path": getattr(sys, "_base_executable", sys.executable),
    "version": sys.version_info[:2],
    "has_venv": bool(find_spec("venv") and find_spec("ensurepip")),
    "has_headers": os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")),
    "has_rclpy": bool(find_spec("rclpy")),
}))
"""
"""Program that prints properties of a Python. In a virtual environment, the path is that of the base Python."""


class SetupError(Exception):
    """The set-up failed. The message states what to do."""


@dataclass(frozen=True)
class Interpreter:
    """A Python with which the environment can be created."""

    path: str
    version: tuple[int, int]
    has_venv: bool
    has_headers: bool
    has_rclpy: bool


def inspect_interpreter(path: str) -> Interpreter | None:
    """Return the properties of a Python. None: it does not run, for example because pyenv has disabled this version."""
    try:
        output = subprocess.run(
            [path, "-c", INSPECTION], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    facts = json.loads(output.stdout)
    major, minor = facts.pop("version")
    return Interpreter(version=(major, minor), **facts)


def choose_interpreter(ros_distro: str, wanted: str) -> Interpreter:
    """Return the Python that the user names, or the Python of the sourced ROS, or the first tested Python.

    :raises SetupError: there is no such Python.
    """
    if wanted:
        return _fitting(inspect_interpreter(wanted), f"PYTHON={wanted}")
    candidates = ["python3", "/usr/bin/python3", *(f"python{major}.{minor}" for major, minor in PYTHON_VERSIONS)]
    found = [interpreter for interpreter in map(inspect_interpreter, candidates) if interpreter]
    if ros_distro:
        of_ros = next((interpreter for interpreter in found if interpreter.has_rclpy), None)
        return _fitting(of_ros, f"ROS 2 {ros_distro}")
    for interpreter in found:
        if interpreter.version in PYTHON_VERSIONS:
            return interpreter
    raise SetupError("No Python 3.11 or 3.12 was found; install one, or name it: make setup PYTHON=/path/to/python3.12")


def _fitting(interpreter: Interpreter | None, reason: str) -> Interpreter:
    if interpreter is None:
        raise SetupError(f"No working Python was found for {reason}.")
    version = ".".join(map(str, interpreter.version))
    if interpreter.version in UNTESTED_PYTHON_VERSIONS:
        print(f"Python {version} is untested with this package.", file=sys.stderr)
    elif interpreter.version not in PYTHON_VERSIONS:
        raise SetupError(
            f"{reason} means Python {version}, but this package needs Python 3.11 to 3.14 for vLLM: build with colcon in an "
            "environment of your own and use the engine 'remote' (see docs/development.md)."
        )
    return interpreter
