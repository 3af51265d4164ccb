"""The page about comparing models: its commands run, its reference is complete, and the demo model gives its report."""

import argparse
import asyncio
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from bag_rig import Table, write_bag
from fakes import ScriptedEngine
from openai_server import serving

from robobrain_ros.cli import check_consistency, compare_models
from robobrain_ros.cli.compare_report import Results
from robobrain_ros.cli.progress import Messages
from robobrain_ros.core import Brain, profile_for
from robobrain_ros.demo import DEMO_MODEL, recording

pytest.importorskip("rosbags", reason="rosbags is not installed")

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "how-to" / "compare_models.md").read_text(encoding="utf-8")
PROGRAM = "robobrain-check-consistency "
MESSAGES = Messages("check_consistency")


def commands() -> list[list[str]]:
    return [shlex.split(line.removeprefix(PROGRAM)) for line in PAGE.splitlines() if line.startswith(PROGRAM)]


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The first command finds its bag and checkpoint. The second one needs a server and weights, so only its options are read."""

    async def open_brain(**options: Any) -> Brain:
        engine = ScriptedEngine(["[(10, 20)]", "Yes."])
        info = await engine.start(options["progress"])
        return Brain(engine, profile_for("robobrain2.0"), info=info)

    monkeypatch.setattr("robobrain_ros.local.open_brain", open_brain)
    monkeypatch.chdir(tmp_path)
    Path("robobrain_ros").mkdir()
    Path("robobrain_ros/demo").symlink_to(DEMO_MODEL.parent)
    assert recording.main(["table_bag", "--seconds", "1"]) == 0
    first, second = commands()
    capfd.readouterr()
    assert compare_models.main(check_consistency.parse_options(first), MESSAGES) == 0
    shown = capfd.readouterr().out.splitlines()
    documented = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0].splitlines()
    assert [line.split()[:1] for line in shown] == [line.split()[:1] for line in documented]
    for name in re.findall(r"^\| `(\S+)` \|", PAGE.split("has these files")[1].split("##")[0], re.MULTILINE):
        assert Path("report", name).stat().st_size > 100
    options = check_consistency.parse_options(second)
    assert [model.partition("=")[0] for model in options.models] == ["old", "new", "cloud"]


def test_the_reference_lists_each_option() -> None:
    text = (DOCS / "reference" / "command_line.md").read_text(encoding="utf-8")
    section = text.split("\n## check_consistency\n")[1].split("\n## ")[0]
    cells = " ".join(line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `--"))
    known: set[str] = set()

    def parsed(self: argparse.ArgumentParser, arguments: Any = None) -> argparse.Namespace:
        known.update(name for action in self._actions for name in action.option_strings if name.startswith("--"))
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        with pytest.raises(SystemExit):
            check_consistency.parse_options([])
    assert set(re.findall(r"--[a-z-]+", cells)) == known - {"--help"}


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_the_demo_model_twice_and_a_server(tmp_path: Path) -> None:
    """Real engines. The second one sees smaller images. The server always gives the same point."""
    write_bag(tmp_path / "in", [Table().image(seconds) for seconds in (0.0, 1.0)])

    async def compared() -> Results:
        async with serving(pieces=("[(3, 4)]",)) as server:
            options = check_consistency.parse_options(
                ["--bag", str(tmp_path / "in"), "--output", str(tmp_path / "report"), "--models", f"full={DEMO_MODEL}",
                 f"small={DEMO_MODEL}", f"server={server.url}", "--engine", "small.max_pixels=100000",
                 "--engine", "full.enforce_eager=true", "--point", "the purple mug"]
            )  # fmt: skip
            return await compare_models.compare(options, MESSAGES)

    results = asyncio.run(compared())
    pairs = {pair.pair: pair for pair in results.questions[0]}
    assert (pairs["full", "small"].both, pairs["full", "small"].share) == (2, 1.0)
    assert pairs["full", "small"].distance < 8.0
    assert pairs["full", "server"].share == 0.0
    assert [result.served[1].split()[0] for result in results.models] == ["vllm", "vllm", "vllm"]
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    assert all(model["first_token"]["median"] > 0 for model in data["models"])
