"""The documentation of the bag program: its commands run, its tables are complete, and the demo model gives its summary."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bag_rig import Program, counts, read_bag, table

from robobrain_ros.cli import bag
from robobrain_ros.demo import recording

pytest.importorskip("rosbags", reason="rosbags is not installed")

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "how-to" / "bags.md").read_text(encoding="utf-8")
REFERENCE = (DOCS / "reference" / "command_line.md").read_text(encoding="utf-8").split("\n## bag\n")[1].split("\n## ")[0]
PROGRAM = "robobrain-bag "


def block(language: str, begin: str) -> str:
    """Return the only code block of the page that begins with a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    [found] = [text for text in blocks if text.startswith(begin)]
    return str(found)


def commands() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith(PROGRAM)]
    assert len(lines) >= 4
    return [shlex.split(line.removeprefix(PROGRAM)) for line in lines]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capfd)


def test_the_commands_of_the_page_run(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = block("bash", "python -m robobrain_ros.demo.recording ").split()[3:]
    assert recording.main([*recorded, "--seconds", "1"]) == 0
    Path("queries.yaml").write_text(block("yaml", "- {name"), encoding="utf-8")
    for command in commands():
        done = program("[(10, 20), (30, 40)]", *command)
        assert done.code == 0, done.err
        assert sum(counts(tmp_path / command[1]).values()) > 0
    assert (tmp_path / "answers.csv").stat().st_size > 100
    assert (tmp_path / "answers.mp4").stat().st_size > 100


def test_the_reference_lists_each_option_and_exit_code() -> None:
    first_cells = " ".join(line.split(" | ")[0] for line in REFERENCE.splitlines() if line.startswith("| `--"))
    documented = set(re.findall(r"--[a-z-]+", first_cells))
    actions = bag._parser()._actions
    options = {name for action in actions for name in action.option_strings if name.startswith("--")} - {"--help"}
    assert documented == options
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", REFERENCE, re.MULTILINE))
    assert rows == {str(code): meaning for code, meaning in bag.MEANINGS.items()}


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_the_demo_model_gives_the_printed_summary_and_finds_the_mug(tmp_path: Path) -> None:
    """The program runs in its own process, with the engine on the CPU."""
    assert recording.main([str(tmp_path / "table_bag")]) == 0
    run = [sys.executable, "-c", "import sys; from robobrain_ros.cli.bag import main; sys.exit(main())"]
    # In the repository, Python would find the sources without the built messages.
    command = [*commands()[0]]
    command[:2] = [str(tmp_path / name) for name in command[:2]]
    done = subprocess.run([*run, *command], capture_output=True, text=True, timeout=800, check=False, cwd="/")
    assert done.returncode == 0, done.stderr

    def without_time(text: str) -> list[list[str]]:
        return [line.split()[:5] for line in text.splitlines()]

    assert without_time(done.stdout) == without_time(block("text", "question "))
    mug = table().find("purple mug")
    assert mug is not None
    messages = read_bag(tmp_path / "answers")["/robobrain/affordances"]
    first = messages[0][1]
    assert (first.header.frame_id, first.position_note) == ("table", "")
    u, v = mug.centre
    assert abs(first.points[0].u - u) < 40
    assert abs(first.points[0].v - v) < 40
