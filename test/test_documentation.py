"""The documentation agrees with the code: links, anchors, tables, names, defaults and examples. Sentences are not checked."""

import argparse
import ast
import dataclasses
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from robobrain_ros import core
from robobrain_ros.cli import ask
from robobrain_ros.cli.reply import Reply, to_dict
from robobrain_ros.core import surfaces
from robobrain_ros.core.query import CAMERA_TASKS
from robobrain_ros.engine import presets
from robobrain_ros.engine.flagos import operators, tune_file
from robobrain_ros.errors import OutcomeCode
from robobrain_ros.ros.parameters.documents import to_markdown
from robobrain_ros.ros.parameters.standing import standing_query_parameters
from robobrain_ros.ros.parameters.table import camera_parameters, table
from robobrain_ros.ros.parameters.task_models import task_model_parameters

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
IGNORED = {"build", "install", "log", "site", ".venv", ".git"}
PAGES = [
    path.relative_to(REPOSITORY)
    for path in sorted(REPOSITORY.rglob("*.md"))
    if not any(part in IGNORED or part.startswith(".") for part in path.relative_to(REPOSITORY).parts)
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
MOST_LINES = 120
"""Most lines of the README."""


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return re.sub(r"^```.*?^```", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, by the rule of GitHub and mkdocs."""
    titles = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).strip().lower()).replace(" ", "-") for title in titles}


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """Return page and text of each code block in a language."""
    for page in PAGES:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        yield from ((page, block) for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def rows(page: str, heading: str = "") -> list[list[str]]:
    """Return the cells of all table rows on a page of docs/, or below one of its headings."""
    text = (DOCS / page).read_text(encoding="utf-8")
    if heading:
        text = re.split(r"^#+ ", text.split(f"{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]


def names(cell: str) -> list[str]:
    """Return the texts in backticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


# Structure


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent.joinpath(path).resolve() if path else REPOSITORY / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.relative_to(REPOSITORY)), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_table_row_belongs_to_a_table(page: Path) -> None:
    """A blank line within a table makes a paragraph of the rows below it."""
    for block in re.findall(r"(?:^ *\|.*\n?)+", prose(page), re.MULTILINE):
        lines = block.splitlines()
        assert len(lines) > 1, f"no table: {block}"
        assert re.fullmatch(r"[ |:-]+", lines[1]), f"the second line does not separate a head from the rows: {lines[0]}"


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_index_leads_to_every_page() -> None:
    linked = {link.partition("#")[0] for link in LINK.findall((DOCS / "index.md").read_text(encoding="utf-8"))}
    assert {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - {"index.md"} <= linked


# Tables that are generated from the code, or that contain names in the code


def doc_tables() -> ModuleType:
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    try:
        return import_module("doc_tables")
    finally:
        sys.path.pop(0)


def test_the_generated_files_are_up_to_date() -> None:
    tables = doc_tables()
    generated = tables.generated()
    assert {REPOSITORY / "config" / "robobrain.yaml", *DOCS.rglob("*.md")} == set(generated)
    for path, text in generated.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python scripts/doc_tables.py"
    shown = set(re.findall(r"<!-- table: (\w+) -->", "".join(generated.values())))
    assert shown == set(tables.TABLES)


def test_the_architecture_lists_every_package() -> None:
    sources = REPOSITORY / "robobrain_ros"
    folders = {path.parent.relative_to(sources).as_posix() for path in sources.rglob("__init__.py")}
    packages = {folder for folder in folders if folder != "." and folder.count("/") < 2}
    listed = {name for row in rows("explanation/architecture.md", "## Packages") for name in names(row[0])}
    assert packages <= listed
    assert all((sources / name).is_dir() or (sources / f"{name}.py").is_file() for name in listed - {"robobrain_ros"})


def test_messages_are_all_described() -> None:
    files = {path.stem for kind in ("msg", "srv", "action") for path in (REPOSITORY / kind).iterdir()}
    described = set(re.findall(r"^### (\w+)$", (DOCS / "reference" / "messages.md").read_text("utf-8"), re.MULTILINE))
    assert files == described, (
        f"add {sorted(files - described)} to a tuple of message names in scripts/doc_tables.py, then run it"
    )


def test_the_public_names_of_python_are_documented() -> None:
    page = "reference/python.md"
    assert {names(row[0])[0] for row in rows(page, "## Names of robobrain_ros.core") if names(row[0])} == set(core.__all__)
    for kind in (core.Query, core.Answer):
        shown = [names(row[0])[0] for row in rows(page, f"## Fields of {kind.__name__}") if names(row[0])]
        assert shown == [field.name for field in dataclasses.fields(kind)], (
            f"correct the fields of {kind.__name__} in docs/{page}"
        )
    tasks = next(row for row in rows(page) if row[0] == "`Task`")
    assert names(tasks[1]) == [task.name for task in core.Task], f"correct the row of Task in docs/{page}"


def test_every_outcome_has_its_advice_and_its_exit_code() -> None:
    advice = {names(row[0])[0]: row for row in rows("reference/outcomes.md", "## What a caller does") if names(row[0])}
    assert set(advice) == {code.name for code in OutcomeCode}
    for code, number in ask.EXIT_CODES.items():
        assert advice[code.name][-1] == str(number)


def test_troubleshooting_knows_every_outcome() -> None:
    text = (DOCS / "how-to" / "troubleshooting.md").read_text(encoding="utf-8")
    for code in set(OutcomeCode) - {OutcomeCode.OK, OutcomeCode.CANCELED}:
        assert f"| `{code.name}` |" in text


def all_code() -> str:
    """Return the package's source, in which adjacent strings are joined."""
    code = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "robobrain_ros").rglob("*.py"))
    return re.sub(r'" *\n *f?r?"', "", code)


def fixed_words(quote: str) -> Iterator[str]:
    """Return every three consecutive words of a quote. Values that the code inserts separate words."""
    for part in re.split(r"\.\.\.|\d+", quote):
        words = part.split()
        yield from (" ".join(words[first : first + 3]) for first in range(max(len(words) - 2, min(len(words), 1))))


QUOTED = ("## The node does not become ready", "### Images are too old", "## Positions are NaN, or not in target_frame")
"""Tables of troubleshooting whose first cell quotes a message, with `...` for variable parts."""


@pytest.mark.parametrize("heading", QUOTED)
def test_troubleshooting_quotes_messages_of_the_code(heading: str) -> None:
    code = all_code()
    quotes = [names(row[0])[0] for row in rows("how-to/troubleshooting.md", heading) if row[0].startswith("`")]
    assert len(quotes) > 3
    for quote in quotes:
        assert any(words in code for words in fixed_words(quote)), f"nothing says {quote!r}"


def messages_without_positions() -> Iterator[str]:
    """Yield the messages of the code about missing positions. A blank line replaces each inserted value."""
    yield from (value for name, value in vars(surfaces).items() if name.isupper() and isinstance(value, str))
    files = ("core/geometry.py", "core/surfaces.py", "core/formats/depth_files.py", "ros/positions.py")
    for tree in (ast.parse((REPOSITORY / "robobrain_ros" / file).read_text(encoding="utf-8")) for file in files):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("GeometryError", "OtherSizeError"):
                texts = node.args
            elif isinstance(node, ast.Return | ast.Assign | ast.keyword) and node.value is not None:
                texts = [it for it in ast.walk(node.value) if isinstance(it, ast.JoinedStr)]
            else:
                continue
            for text in texts:
                parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                yield "\n\n".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))


def test_troubleshooting_has_every_message_about_missing_positions() -> None:
    table = rows("how-to/troubleshooting.md", "## Positions are NaN, or not in target_frame")
    known = {words for row in table for quote in names(row[0]) for words in fixed_words(quote)}
    messages = [message for message in messages_without_positions() if len(message.split()) > 3]
    assert len(messages) > 25
    missing = [message for message in messages if not any(words in message for words in known)]
    assert missing == [], "add a row to docs/how-to/troubleshooting.md"


def test_the_flagos_page_quotes_messages_of_the_code() -> None:
    """Each quote is in one text of the code, with one inserted value for each `...`."""
    code, table_rows = all_code(), rows("how-to/flagos.md", "## When something is wrong")
    quotes = [quote for row in table_rows if row[0].startswith("`") for quote in names(row[0])]
    assert len(quotes) > 10
    for quote in quotes:
        pattern = r"[^\n]{1,160}?".join(re.escape(part.strip()) for part in quote.split("..."))
        assert re.search(pattern, code), f"nothing says {quote!r}"
    changed = next(row[1] for row in table_rows if row[0].startswith("`is for another"))
    assert all(f"the {part}" in changed for part in tune_file._PARTS.values())


def test_each_fault_names_a_test_that_exists() -> None:
    """The last cell of each row of the fault table is a list of `file.py::test`."""
    for row in rows("reference/faults.md"):
        if row[0] == "fault":
            continue
        assert len(row) == 4, f"four cells are expected: {row}"
        assert all(row), f"an empty cell: {row}"
        tests = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[3])
        assert tests, f"no test is named: {row}"
        for file, test in tests:
            code = (REPOSITORY / "test" / file).read_text(encoding="utf-8")
            assert re.search(rf"^ *(async )?def {test}\(", code, re.MULTILINE), f"{file} has no {test}"


def test_the_command_line_options_are_documented() -> None:
    documented = {name.split()[0] for row in rows("reference/command_line.md", "## ask") for name in names(row[0])}
    parser: argparse.ArgumentParser = ask._parser()
    known = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    assert documented == known - {"--help"}, "correct the options in docs/reference/command_line.md, section ask"


def test_the_section_about_ask_names_each_task() -> None:
    text = (DOCS / "reference" / "command_line.md").read_text(encoding="utf-8").split("\n## ask\n")[1].split("\n## ")[0]
    for task in CAMERA_TASKS:
        assert f"`{task.value}`" in text, f"docs/reference/command_line.md, section ask: the task {task.value} is missing"


def test_the_readme_names_each_task() -> None:
    sentence = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("- **Tasks**: ")[1].split(". ")[0]
    missing = {task.value for task in CAMERA_TASKS} - set(names(sentence))
    assert not missing, f"README.md, section Features: add {sorted(missing)} to the tasks"


def test_the_keys_of_the_json_are_documented() -> None:
    documented = {name for row in rows("reference/command_line.md", "## JSON") if row[0] != "key" for name in names(row[0])}
    printed = set(to_dict(Reply(OutcomeCode.OK, "", core.Answer(core.Task.ASK, "")), ""))
    assert documented == printed, "correct the keys in docs/reference/command_line.md, section JSON"


def test_the_launch_arguments_are_documented() -> None:
    for launch_file in ("robobrain", "demo"):
        tree = ast.parse((REPOSITORY / "launch" / f"{launch_file}.launch.py").read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        declared = {ast.literal_eval(call.args[0]) for call in calls if getattr(call.func, "id", "") == "DeclareLaunchArgument"}
        documented = {
            names(row[0])[0] for row in rows("reference/command_line.md", f"### {launch_file}.launch.py") if names(row[0])
        }
        assert documented == declared


def test_the_exclusions_of_flaggems_are_documented() -> None:
    found: dict[str, set[str]] = {}
    for row in rows("explanation/flagos.md", "## Excluded operators"):
        found.setdefault(row[0].lower(), set()).update(names(row[1]))
    assert found["all chips"] == set(operators.EXCLUDED_BY_DEFAULT)
    for vendor, excluded in operators.EXCLUDED_BY_VENDOR.items():
        assert found[vendor] == set(excluded)


def dict_keys(file: str, *functions: str) -> set[str]:
    """Return the keys that functions of a file put into dictionaries, and the names that they list in tuples."""
    found: set[str] = set()
    tree = ast.parse((REPOSITORY / "robobrain_ros" / file).read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef) or function.name not in functions:
            continue
        for node in ast.walk(function):
            keys: list[Any] = []
            if isinstance(node, ast.Dict):
                keys = [key for key in node.keys if key is not None]
            elif isinstance(node, ast.Tuple):
                keys = list(node.elts)
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                keys = [node.slice]
            found |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return found


def test_the_keys_of_diagnostics_are_documented() -> None:
    parts = dict_keys("ros/diagnostics.py", "_engine", "_server", "_served", "_clock", "_callbacks", "_query", "_camera")
    parts |= dict_keys("engine/flagos/session.py", "details")
    parts |= dict_keys("engine/flagos/by_shape/start.py", "details")
    page = "reference/diagnostics.md"
    documented = {name for row in rows(page, "## Keys of `engine`") for name in names(row[0])}
    documented |= {name for row in rows(page, "## Keys of the other parts") for name in names(row[1])}
    assert documented == parts, f"docs/{page}: these keys are only there or only published: {sorted(documented ^ parts)}"


def test_the_parameters_of_the_demo_camera_are_documented() -> None:
    from robobrain_ros.demo.camera import CameraSettings

    documented: dict[str, str] = {}
    for row in filter(lambda row: names(row[1]), rows("how-to/demo.md", "## Scenes")):
        documented |= dict(zip(names(row[0]), names(row[1]), strict=True))
    defaults = {name: str(it.default) for name, it in CameraSettings.__dataclass_fields__.items()}
    assert documented == {name: {"True": "true", "False": "false"}.get(default, default) for name, default in defaults.items()}


def test_the_readmes_memory_is_that_of_the_presets() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(robobrain\S+)` \| \S+ \| (\d+) GB(?:, FP8: (\d+) GB)? \|.*\| (yes|no) \|$", text, re.MULTILINE)
    assert len(shown) == 5
    for name, memory, in_fp8, thinks in shown:
        model, quantized = presets.find_preset(name), presets.find_preset(f"{name}-fp8")
        assert model is not None
        assert (str(model.card_gb()), model.can_think) == (memory, thinks == "yes")
        if in_fp8:
            assert quantized is not None
            assert str(quantized.card_gb()) == in_fp8


def test_the_readmes_speed_is_that_of_the_results() -> None:
    """Rounded requests per second at a concurrency of 1 and 8, and of `generate`. The results' tables have one more decimal."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| (\w+), \w+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE)
    measured = [row[1:3] for row in rows("results/gpu.md") if len(row) > 3 and row[3] == "requests/s"]
    for model, at_1, at_8, generate in shown:
        for speed in (at_1, at_8):
            digits = len(speed.partition(".")[2])
            found = [pair for pair in measured if f"{float(pair[0]):.{digits}f}" == speed and pair[1] == generate]
            assert found, f"{model}: {speed} requests/s is in no row of the results"
    assert len(shown) == 4


def test_the_parameters_of_the_tutorial_are_those_of_the_node() -> None:
    known = dict(re.findall(r"^\| `(\S+)` \| [a-z ]+ \| `(.*?)` \|", to_markdown(), re.MULTILINE))
    shown = [row for row in rows("tutorials/robot.md", "## 5. Keep your settings") if names(row[0])]
    assert len(shown) >= 5
    for row in shown:
        (name,) = names(row[0])
        assert names(row[1]) == [known[name]], f"docs/tutorials/robot.md: the default of {name} is {known[name]}"


# Examples


@pytest.mark.parametrize(("page", "code"), list(blocks("python")))
def test_python_examples_are_python(page: Path, code: str) -> None:
    compile(code, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return parameters by their full names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize(("page", "text"), [block for block in blocks("yaml") if "/**:" in block[1]])
def test_parameter_files_hold_known_parameters_with_values_that_they_may_have(page: Path, text: str) -> None:
    values = dict(flat(yaml.safe_load(text)["/**"]["ros__parameters"]))
    known = list(table())
    for camera in values.get("cameras", ["camera"]):
        known += camera_parameters(camera)
    for query in values.get("standing_queries", []):
        known += standing_query_parameters(query)
    for model in values.get("task_models", []):
        known += task_model_parameters(model)
    by_name = {parameter.name: parameter for parameter in known}
    for name, value in values.items():
        assert name in by_name, f"{page}: {name}"
        assert by_name[name].fault(value) == ""
