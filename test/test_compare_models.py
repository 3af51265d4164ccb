"""Models that are compared on a bag: their coordinates, the report, interruptions and wrong input, with scripted engines."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_rig import BEGIN, SECOND, Table, in_model, table, write_bag
from fakes import Script, ScriptedEngine
from openai_server import serving

from robobrain_ros.bags.errors import BagError
from robobrain_ros.bags.messages import IMAGE, message_type
from robobrain_ros.cli import check_consistency, compare_models, own_engine
from robobrain_ros.cli.progress import Bar, Messages
from robobrain_ros.core import Brain, profile_for
from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.errors import EngineFailedError

pytest.importorskip("rosbags", reason="rosbags is not installed")

MUG = ("--point", "the purple mug")
TYPES = {"robobrain2.0": ("qwen2_5_vl", 28), "robobrain2.5": ("qwen3_vl", 32)}


@dataclass
class Rig:
    """Runs the program with scripted engines, by the profile and the seed of a model."""

    folder: Path
    capfd: pytest.CaptureFixture[str]
    engines: dict[int, ScriptedEngine] = field(default_factory=dict)
    opened: list[int] = field(default_factory=list)
    running: set[int] = field(default_factory=set)

    async def open_brain(self, model: str, model_profile: str, progress: Any, seed: int, **options: Any) -> Brain:
        """See `local.open_brain`. The seed, an engine option, selects the scripted engine."""
        assert not self.running, "the engine before it was not closed"
        profile = profile_for("robobrain2.0" if model_profile == "auto" else model_profile)
        model_type, cell = TYPES[profile.name]
        engine = self.engines[seed]
        await engine.start(progress)
        self.opened.append(seed)
        self.running.add(seed)
        closing = engine.close

        async def close() -> None:
            self.running.discard(seed)
            await closing()

        engine.close = close  # type: ignore[method-assign]
        info = EngineInfo(f"{model} {seed}", model_type, "scripted", min_pixels=cell**2, max_pixels=10**6, cell=cell)
        return Brain(engine, profile, info=info, identified_by="a test")

    def run(self, *scripts: ScriptedEngine | Sequence[Script | str] | str, more: Sequence[object] = ()) -> int:
        """Compare one model for each script. Further options can replace those of the models. Return the exit code."""
        names, arguments = "abc", ["--bag", str(self.folder / "in"), "--output", str(self.folder / "report"), "--models"]
        for number, script in enumerate(scripts):
            made = [script] if isinstance(script, str) else script
            self.engines[number] = made if isinstance(made, ScriptedEngine) else ScriptedEngine(list(made))
        arguments += [f"{names[number]}={DEMO_MODEL}" for number in range(len(scripts))]
        for number in range(len(scripts)):
            arguments += ["--engine", f"{names[number]}.seed={number}"]
        self.opened.clear()
        self.capfd.readouterr()
        options = check_consistency.parse_options([*arguments, *map(str, more)])
        return compare_models.main(options, Messages("check_consistency"))

    @property
    def said(self) -> str:
        return self.capfd.readouterr().err

    @property
    def data(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "report" / "report.json").read_text())
        return content

    @property
    def page(self) -> str:
        return (self.folder / "report" / "report.html").read_text()


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Rig:
    it = Rig(tmp_path, capfd)
    monkeypatch.setattr("robobrain_ros.local.open_brain", it.open_brain)
    write_bag(tmp_path / "in", [Table().image(seconds) for seconds in (0.0, 1.0, 2.0)])
    return it


@pytest.fixture
def other_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a scripted engine serve a model of another family than the files of its checkpoint."""

    async def unchecked(model: Any, progress: Any) -> None:
        pass

    monkeypatch.setattr(compare_models, "check_model", unchecked)


def mug() -> tuple[float, float]:
    thing = table().find("purple mug")
    assert thing is not None
    return thing.centre


def at(u: float, v: float) -> str:
    return str([in_model(u, v)])


def thousandths(u: float, v: float) -> str:
    return f"[({round(u / 640 * 1000)}, {round(v / 480 * 1000)})]"


@pytest.mark.usefixtures("other_family")
def test_each_model_is_read_with_its_own_profile(rig: Rig) -> None:
    """The numbers of the two answers differ. Their pixels in the camera's image do not."""
    u, v = mug()
    code = rig.run(at(u, v), thousandths(u, v), more=[*MUG, "--model-profile", "b=robobrain2.5"])
    assert code == 0, rig.said
    assert at(u, v) != thousandths(u, v)
    [question] = rig.data["questions"]
    [pair] = question["agreement"]
    assert (pair["models"], pair["both_answered"], pair["agreement"]) == (["a", "b"], 3, 1.0)
    assert pair["median_distance"] < 1.0
    place = question["images"][0]["answers"]["b"]["content"]["points"][0]
    assert (place["u"], place["v"]) == (pytest.approx(u, abs=1.0), pytest.approx(v, abs=1.0))
    profiles = [model["profile"].split(" (")[0] for model in rig.data["models"]]
    assert profiles == ["robobrain2.0", "robobrain2.5"]
    assert [model["model"] for model in rig.data["models"]] == [f"{DEMO_MODEL} {seed}" for seed in (0, 1)]
    assert rig.opened == [0, 1]
    assert not rig.running


def test_the_images_with_the_least_agreement_come_first(rig: Rig) -> None:
    right = at(100, 100)
    code = rig.run([right, right, right], [right, at(500, 400), at(120, 110)], more=MUG)
    assert code == 0
    images = rig.data["questions"][0]["images"]
    assert [(image["number"], image["agreement"]) for image in images] == [(1, 0.0), (2, 1.0), (0, 1.0)]
    headings = re.findall(r"<h3>(.*?)</h3>", rig.page)
    assert headings == ["1.00 s: agreement 0%", "2.00 s: agreement 100%", "0.00 s: agreement 100%"]
    files = re.findall(r'src="(.*?)"', rig.page)
    assert len(files) == len(set(files)) == 6
    assert all((rig.folder / "report" / file).stat().st_size > 1000 for file in files)
    assert rig.page.count("Agreement is not correctness") == 1


def test_refusals_and_unreadable_answers_never_agree(rig: Rig) -> None:
    nothing = "There is no purple mug."
    code = rig.run([nothing, nothing, "nonsense"], [nothing, at(9, 9), "nonsense"], more=MUG)
    assert code == 0
    [question] = rig.data["questions"]
    [pair] = question["agreement"]
    assert (pair["both_answered"], pair["only_first"], pair["only_second"], pair["neither"]) == (0, 0, 1, 2)
    assert pair["agreement"] is None
    assert [(image["number"], image["agreement"]) for image in question["images"]] == [(1, 0.0), (0, None), (2, None)]
    outcomes = [model["outcomes"] for model in rig.data["models"]]
    assert outcomes[0] == {"NOTHING_FOUND": 2, "UNPARSABLE_ANSWER": 1}
    assert outcomes[1] == {"NOTHING_FOUND": 1, "OK": 1, "UNPARSABLE_ANSWER": 1}
    assert "NOTHING_FOUND: " in rig.page
    assert "no answers to compare" in rig.page


def test_three_models_and_several_tasks(rig: Rig) -> None:
    (rig.folder / "q.yaml").write_text(
        "- {name: <mug>, task: point, instruction: the purple mug}\n"
        '- {name: seen, task: ask, instruction: "Is there a mug?", at: [0, 2]}\n'
    )
    answers = [[at(100, 100), "Yes."], [at(100, 100), "No."], [at(100, 100), "yes, two"]]
    scripts = [[point, said, point, point, said] for point, said in answers]
    code = rig.run(*scripts, more=["--queries", rig.folder / "q.yaml", "--plan", "Tidy up", "--every", 3])
    assert code == 0, rig.said
    data = rig.data
    assert [len(question["images"]) for question in data["questions"]] == [1, 2, 1]
    asked = {tuple(pair["models"]): (pair["same_yes_or_no"], pair["yes_or_no"]) for pair in data["questions"][1]["agreement"]}
    assert set(asked) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert set(data["tasks"]) == {"point", "ask", "plan"}
    assert "<mug>" not in rig.page
    assert "&lt;mug&gt;" in rig.page


def test_latency_is_measured_for_each_model(rig: Rig) -> None:
    assert rig.run(at(1, 1), at(1, 1), more=[*MUG, "--at-once", 2]) == 0
    for model in rig.data["models"]:
        assert 0 < model["first_token"]["median"] <= model["latency"]["median"] <= model["latency"]["p95"]
        assert (model["tokens"], model["at_once"]) == (1.0, [2])


def test_a_failed_engine_stops_the_comparison_and_the_next_run_continues(rig: Rig) -> None:
    dead = Script([EngineFailedError("The engine's process died.")])
    right = at(100, 100)
    assert rig.run([right] * 3, [right, dead, dead], more=MUG) == 1
    assert "ENGINE_FAILED: The engine's process died. Run the same command again to continue." in rig.said
    assert not (rig.folder / "report" / "report.html").exists()
    assert rig.run("unused", [right] * 2, more=MUG) == 0
    assert rig.opened == [1]
    assert len(rig.engines[1].generations) == 2
    assert rig.data["questions"][0]["agreement"][0]["both_answered"] == 3


def test_an_interrupted_comparison_continues(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer of the first model interrupts the program, as Ctrl-C does."""
    show = Bar.show

    def interrupting(self: Bar, done: int) -> None:
        show(self, done)
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "show", interrupting)
        patch.setattr(own_engine, "kill_later", lambda messages: None)
        assert rig.run(at(1, 1), at(1, 1), more=MUG) == 130
    assert "interrupted. Run the same command again to continue." in rig.said
    assert (rig.opened, rig.running) == ([0], set())
    assert rig.run([at(1, 1)], [at(1, 1)], more=MUG) == 0
    assert [len(rig.engines[number].generations) for number in (0, 1)] == [1, 3]


def test_a_line_that_was_not_written_completely_is_asked_again(rig: Rig) -> None:
    right = at(100, 100)
    assert rig.run(right, right, more=MUG) == 0
    log = rig.folder / "report" / "answers.jsonl"
    log.write_text(log.read_text()[:-40])
    assert rig.run("unused", [right], more=MUG) == 0
    assert (rig.opened, len(rig.engines[1].generations)) == ([1], 1)


def test_further_models_and_questions_are_added_to_a_report(rig: Rig) -> None:
    right = at(100, 100)
    assert rig.run(right, right, more=[*MUG, "--limit", 2]) == 0
    assert rig.run("unused", "unused", right, more=[*MUG, "--limit", 2]) == 0
    assert (rig.opened, len(rig.engines[2].generations)) == ([2], 2)
    assert rig.run(right, right, right, more=[*MUG, "--limit", 2, "--point", "the green bowl"]) == 0
    assert [len(rig.engines[number].generations) for number in range(3)] == [2, 2, 2]
    assert rig.run("unused", right, "unused", more=[*MUG, "--limit", 2, "--engine", "b.max_pixels=200000"]) == 0
    assert rig.opened == [1]


def test_answers_about_another_bag_are_not_mixed(rig: Rig) -> None:
    assert rig.run(at(1, 1), at(1, 1), more=MUG) == 0
    before = (rig.folder / "report" / "answers.jsonl").read_text()
    write_bag(rig.folder / "other", [Table().image(0.0)])
    assert rig.run(at(1, 1), at(1, 1), more=[*MUG, "--bag", rig.folder / "other"]) == 1
    assert "has answers of an evaluation with another value of bag. Use the same options, or another folder." in rig.said
    assert (rig.folder / "report" / "answers.jsonl").read_text() == before


@pytest.mark.usefixtures("other_family")
def test_a_model_that_cannot_think_answers_without_thinking(rig: Rig) -> None:
    right = at(100, 100)
    thinking = "The mug is on the left.</think><answer>"
    code = rig.run([thinking, right] * 3, right, more=[*MUG, "--think", "yes", "--model-profile", "b=robobrain2.5"])
    assert code == 0
    assert "b was not trained to think about all questions. It answers them without thinking." in rig.said
    assert [model["outcomes"] for model in rig.data["models"]] == [{"OK": 3}, {"OK": 3}]


def test_an_image_that_cannot_be_decoded_has_an_outcome(rig: Rig) -> None:
    it = Table()
    header = it.header(1.0)
    broken = message_type(IMAGE)(
        header=header, height=480, width=640, encoding="rgb8", is_bigendian=0, step=1920, data=np.zeros(7, np.uint8)
    )
    write_bag(rig.folder / "half", [it.image(0.0), ("/camera/image", IMAGE, BEGIN + SECOND, broken)])
    assert rig.run(at(1, 1), at(1, 1), more=[*MUG, "--bag", rig.folder / "half"]) == 0
    assert rig.data["models"][0]["outcomes"] == {"OK": 1, "BAD_IMAGE": 1}
    assert "The image cannot be read." in rig.page
    write_bag(rig.folder / "whole", [("/camera/image", IMAGE, BEGIN, broken)])
    more = [*MUG, "--bag", rig.folder / "whole", "--output", rig.folder / "second"]
    assert rig.run("unused", "unused", more=more) == 1
    assert "No selected image of " in rig.said
    assert not rig.opened


WRONG = [
    (["--bag", "missing.mcap"], "There is no bag missing.mcap."),
    (["--models", f"a={DEMO_MODEL}"], "Name at least two models"),
    (["--models", f"a={DEMO_MODEL}", f"a={DEMO_MODEL}"], "Two models are called a."),
    (["--models", f"a={DEMO_MODEL}", "b=no/such/folder"], "Model b: engine.model: no/such/folder is neither a folder"),
    (["--models", f"a={DEMO_MODEL}", f"b=/{'x' * 300}"], "Model b: engine.model: "),
    (["--models", f"a={DEMO_MODEL}", "b=robobrain2.0-8b"], "Model b: engine.model: there is no preset robobrain2.0-8b. Did you"),
    (["--models", f"a={DEMO_MODEL}", "b=http://"], "Model b: "),
    (["--models", f"a={DEMO_MODEL}", "b="], "write NAME=MODEL"),
    (["--models", f"a={DEMO_MODEL}", f"b b={DEMO_MODEL}"], "name the model with letters, digits and . + - _"),
    (["--model-profile", "b=rinbrain"], "Model b: model_profile is 'rinbrain'. It must be auto or one of"),
    (["--model-profile", "b=robobrain2.5"], "Model b: model_profile is robobrain2.5, which has the model type qwen3_vl, but"),
    (["--model-profile", "x=rynnbrain"], "there is no model 'x'. The models are a, b."),
    (["--engine", "x.seed=3"], "there is no model 'x'. The models are a, b."),
    (["--engine", "b.max_pixels=3"], "Model b: engine.max_pixels is 3; it must be from"),
    (["--engine", "b.seed=three"], "Model b: engine.seed must be of type int, not 'three'."),
    (["--engine", "b.kind=remote"], "Name the servers with --models"),
    (["--image-topic", "/other"], "has no topic /other."),
    (["--at", "99"], "has no image at the times"),
    (["--every", "2", "--rate", "1"], "--every, --rate and --at exclude each other."),
    (["--point", " "], "--point: the instruction is empty."),
    (["--point", "the purple mug"], "is asked twice"),
    (["--think", "both"], "--think both does not apply with --bag."),
    (["--queries", "missing.yaml"], "missing.yaml cannot be read"),
    (["--robots", "missing.yaml"], "--robots needs a question with the task plan."),
    (["--output", "in/report"], "contain each other"),
    (["--output", "full"], "has other files than those of a comparison"),
    (["--output", "file"], "is not a folder"),
    (["--output", "file/report"], "Not a directory"),
]


@pytest.mark.parametrize(("more", "said"), WRONG, ids=[" ".join(more)[:40].replace(str(DEMO_MODEL), "M") for more, _ in WRONG])
def test_wrong_input_is_rejected_before_a_model_is_loaded(
    rig: Rig, more: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rig.folder)
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    assert rig.run("unused", "unused", more=[*MUG, *more]) == 1
    lines = [line for line in rig.said.splitlines() if line.startswith("check_consistency: ") and " images, " not in line]
    assert len(lines) == 1, lines
    assert said in lines[0]
    assert not rig.opened
    assert Path("full/notes.txt").read_text() == Path("file").read_text() == "mine"
    assert list(Path("full").iterdir()) == [Path("full/notes.txt")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bag", "x", "--benchmark", "y"], "--benchmark does not apply with --bag"),
        (["--bag", "x", "--html", "y"], "--html does not apply with --bag"),
        (["--models", "x", "y"], "--models needs --bag"),
        (["--point", "x"], "--point needs --bag"),
        (["--engine", "x.seed=3"], "--engine x.seed names a model, which needs --bag"),
    ],
)
def test_options_of_an_evaluation_and_of_a_comparison_are_not_mixed(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        check_consistency.parse_options(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_two_servers_are_compared(tmp_path: Path) -> None:
    """The engines are real. The first server names a model of RoboBrain 2.0, and the profile of the second one is stated."""
    write_bag(tmp_path / "in", [Table().image(seconds) for seconds in (0.0, 1.0)])
    u, v = mug()

    async def compared() -> None:
        async with serving(pieces=(at(u, v)[:4], at(u, v)[4:])) as one, serving(pieces=(thousandths(u, v),)) as other:
            options = check_consistency.parse_options(
                ["--bag", str(tmp_path / "in"), "--output", str(tmp_path / "report"), "--models", f"one={one.url}",
                 f"other={other.url}", "--model-profile", "other=robobrain2.5", "--engine", "other.model_type=qwen3_vl", *MUG]
            )  # fmt: skip
            await compare_models.compare(options, Messages("check_consistency"))
            assert (len(one.bodies), len(other.bodies)) >= (2, 2)

    asyncio.run(asyncio.wait_for(compared(), 60.0))
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    assert data["questions"][0]["agreement"][0]["both_answered"] == 2
    assert data["questions"][0]["agreement"][0]["median_distance"] < 1.0
    assert [model["profile"].split(" (")[0] for model in data["models"]] == ["robobrain2.0", "robobrain2.5"]


def test_a_server_that_serves_no_model_is_found_before_a_model_is_loaded(rig: Rig) -> None:
    async def refuse(request: Any) -> Any:
        from aiohttp import web

        return web.json_response({"error": "x"}, status=404)

    async def compared() -> None:
        async with serving(models=refuse) as server:
            options = check_consistency.parse_options(
                ["--bag", str(rig.folder / "in"), "--output", str(rig.folder / "report"), "--models", f"a={DEMO_MODEL}",
                 f"b={server.url}", *MUG]
            )  # fmt: skip
            with pytest.raises(BagError, match=r"^Model b: http://127"):
                await compare_models.compare(options, Messages("check_consistency"))

    asyncio.run(asyncio.wait_for(compared(), 60.0))
    assert not rig.opened
