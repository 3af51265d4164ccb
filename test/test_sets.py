"""Sets that code and documentation share are equal: parameters, options, encodings and colours."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from robobrain_ros.core.formats.encodings import ENCODINGS
from robobrain_ros.core.overlay import PALETTE
from robobrain_ros.ros.parameters.standing import standing_query_parameters
from robobrain_ros.ros.parameters.table import camera_parameters, table
from robobrain_ros.ros.parameters.task_models import own_parameters

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = REPOSITORY / "robobrain_ros"
DECLARATIONS = "ros/parameters"
"""Folder with the declarations of parameters. A declaration is not a use. Fields of `EngineOptions` are not strings."""
OPTIONS = r"(?<![\w-])--[a-z][a-z-]*"
PROGRAMS = [line.split(" = ") for line in (REPOSITORY / "executables.txt").read_text().splitlines() if re.match("[a-z]", line)]
WITHOUT_OPTIONS = {"robobrain", "demo_camera"}
"""Nodes, whose parameters are in the table of parameters."""


def documentation() -> dict[Path, str]:
    """Return the text of every page of the documentation."""
    return {path: path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "docs").rglob("*.md"))}


@cache
def words_of_the_code() -> frozenset[str]:
    """Return the attribute names and all strings of the package, without the declarations of parameters."""
    found: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        if path.relative_to(SOURCES).as_posix().startswith(DECLARATIONS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


def names_of_parameters() -> list[str]:
    """Return every parameter name. Names of camera and standing query parameters begin with a point."""
    named = (*camera_parameters("camera"), *standing_query_parameters("mug"), *own_parameters("planner"))
    return [it.name for it in table()] + ["." + it.name.rpartition(".")[2] for it in named]


@pytest.mark.parametrize("name", names_of_parameters())
def test_each_parameter_is_read_somewhere(name: str) -> None:
    words = words_of_the_code()
    assert words & {name, name.rpartition(".")[2]}, f"no code outside of {DECLARATIONS} reads {name}"


def test_a_parameter_that_nothing_reads_would_be_found() -> None:
    assert "images_per_fortnight" not in words_of_the_code()


@cache
def help_of(name: str, function: str) -> str:
    """Return the --help output of a program, with each option on one line."""
    module, main = function.split(":")
    code = f"import sys; sys.argv = [{name!r}, '--help']; from {module} import {main}; {main}()"
    wide = os.environ | {"COLUMNS": "1000"}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd="/", env=wide).stdout
    return re.sub(r"\n {10,}", " ", printed)


@pytest.mark.parametrize(("name", "function"), [it for it in PROGRAMS if it[0] not in WITHOUT_OPTIONS])
def test_the_command_line_page_has_each_option(name: str, function: str) -> None:
    """The options of each program are those that its --help prints."""
    options = set(re.findall(OPTIONS, help_of(name, function))) - {"--help", "--ros-args"}
    assert options
    documented = set(re.findall(OPTIONS, documentation()[REPOSITORY / "docs" / "reference" / "command_line.md"]))
    assert options <= documented, f"docs/reference/command_line.md does not mention {sorted(options - documented)} of {name}"


@pytest.mark.parametrize(("name", "function"), [it for it in PROGRAMS if it[0] not in WITHOUT_OPTIONS])
def test_the_command_line_page_has_the_defaults_of_the_options(name: str, function: str) -> None:
    """The page writes them as "60 by default" or "`camera` by default", and --help as "(default: 60)"."""
    defaults = dict(re.findall(rf"^ +({OPTIONS})\b.*\(default: (.*?)\)", help_of(name, function), re.MULTILINE))
    page = documentation()[REPOSITORY / "docs" / "reference" / "command_line.md"]
    section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
    stated = re.findall(rf"^\| `({OPTIONS})\b[^|]*\|[^|]*?(?:`([^`]+)`|(\d\S*)) by default", section, re.MULTILINE)
    assert stated
    for option, text, number in stated:
        default = defaults.get(option, "").partition("; ")[0]  # After the semicolon: the default together with another option.
        assert default == (text or number), f"docs/reference/command_line.md, section {name}: default of {option}"


@pytest.mark.parametrize(("name", "function"), [it for it in PROGRAMS if it[0] != "robobrain"])
def test_help_prints_the_name_by_which_the_program_was_started(name: str, function: str) -> None:
    module, main = function.split(":")
    script = f"robobrain-{name.replace('_', '-')}"
    code = f"import sys; sys.argv = ['/usr/bin/{script}', '--help']; from {module} import {main}; {main}()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, cwd="/")
    assert done.stdout.startswith(f"usage: {script} ")


def test_the_table_of_encodings_is_that_of_the_code() -> None:
    text = documentation()[REPOSITORY / "docs" / "reference" / "interfaces.md"]
    section = re.split(r"^### ", text.split("### Image encodings")[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| ((?:`[^`|]+` ?)+) \| (.*) \|$", section, re.MULTILINE)
    documented: set[str] = set()
    for cell, meaning in rows:
        for name in re.findall("`([^`]+)`", cell):
            patterns = re.findall("`([a-z]{4})`", meaning) if "*" in name else [""]
            documented |= {name.replace("*", pattern).lower() for pattern in patterns}
    known = {name.lower() for name in ENCODINGS}
    differing = f"only documented: {sorted(documented - known)}, only in the code: {sorted(known - documented)}"
    assert documented == known, f"docs/reference/interfaces.md and core/formats/encodings.py: {differing}"


def test_rvizs_path_has_the_colour_of_a_trajectorys_start() -> None:
    displays = yaml.safe_load((REPOSITORY / "rviz" / "robobrain.rviz").read_text())["Visualization Manager"]["Displays"]
    colours = {display["Class"]: display["Color"] for display in displays if "Color" in display}
    assert colours == {"rviz_default_plugins/Path": "; ".join(map(str, PALETTE.start))}


def test_each_program_is_on_the_command_line_page() -> None:
    text = documentation()[REPOSITORY / "docs" / "reference" / "command_line.md"]
    for name, function in PROGRAMS:
        assert callable(getattr(import_module(function.split(":")[0]), function.split(":")[1]))
        assert f"`{name}`" in text or f"## {name}" in text, f"the page does not mention {name}"
