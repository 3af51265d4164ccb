"""Models that serve single tasks: each request reaches its model, and a fault of one model does not affect the others."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fakes import ScriptedEngine
from lifecycle_msgs.msg import Transition
from ros_rig import Rig, image_message, rig

from robobrain_ros.demo import DEMO_MODEL
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError, EngineFailedError
from robobrain_ros.msg import Outcome, QueryOptions
from robobrain_ros.ros import engine_setup
from robobrain_ros.srv import Ask, Locate, SetStandingQuery

START = 280.0
"""Timeout in seconds for the starts of two engines on a busy machine."""


def named(model: str, answer: str, **more: Any) -> ScriptedEngine:
    """Return an engine that reports this model, and always answers with the same text."""
    info = EngineInfo(model=model, model_type="qwen2_5_vl", engine="scripted", cell=28)
    return ScriptedEngine([answer], info=info, **more)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, ScriptedEngine]:
    """Scripted engines by the model that the parameters name."""
    known: dict[str, ScriptedEngine] = {}
    monkeypatch.setattr(engine_setup, "make_engine", lambda options, *_: known[options.model])
    monkeypatch.setattr(engine_setup, "checked_options", lambda options, *_: options)
    return known


def two_models(**changes: Any) -> dict[str, Any]:
    """Return parameters of a node whose second model, `talker`, serves ask and plan."""
    talker = {"tasks": ["ask", "plan"], "engine__model": "words", "engine__gpu_memory_utilization": 0.4}
    given = {f"task_model__talker__{name}": value for name, value in talker.items()}
    return {"task_models": ["talker"], "engine__gpu_memory_utilization": 0.5, "max_image_age": 0.0} | given | changes


def ask(it: Rig, **options: Any) -> Any:
    return it.call(Ask, "ask", Ask.Request(question="What is on the table?", options=QueryOptions(**options)))


def point(it: Rig) -> Any:
    return it.call(Locate, "point", Locate.Request(instruction="the mug"))


def status(it: Rig, part: str, level: bytes) -> DiagnosticStatus:
    """Wait for a diagnostics entry with this level."""
    messages = it.listen(DiagnosticArray, "/diagnostics")
    name = f"{it.name.lstrip('/')}: {part}"

    def found() -> DiagnosticStatus | None:
        entries = [entry for message in messages for entry in message.status]
        return next((entry for entry in entries if entry.name == name and entry.level == level), None)

    return it.until(found, f"{part} with level {level!r}")


def both_ready(it: Rig) -> None:
    it.until_ready()
    it.until(lambda: all(model.is_ready() for _, model in it.node._models), "the other models")


def test_each_task_reaches_its_model_and_the_report_names_it(engines: dict[str, ScriptedEngine]) -> None:
    engines["words"] = named("words", "A mug.")
    main = named("points", "[(10, 10)]")
    with rig(main, **two_models()) as it:
        both_ready(it)
        it.show(image_message())
        located, answered = point(it), ask(it)
        assert (located.outcome.code, located.affordances.report.model) == (Outcome.OK, "points")
        assert (answered.outcome.code, answered.answer.report.model) == (Outcome.OK, "words")
        assert answered.answer.text == "A mug."
        assert (len(main.generations), len(engines["words"].generations)) == (1, 1)
        entry = status(it, "engine talker", DiagnosticStatus.OK)
        values = {pair.key: pair.value for pair in entry.values}
        assert (values["model"], values["state"]) == ("words", "ready")
        main_values = {pair.key: pair.value for pair in status(it, "engine", DiagnosticStatus.OK).values}
        assert (main_values["model"], main_values["state"]) == ("points", "ready")
    assert engines["words"].state == "stopped"


def test_the_report_of_a_failed_request_names_its_model(engines: dict[str, ScriptedEngine]) -> None:
    engines["words"] = named("words", "")
    with rig(named("points", "nonsense"), **two_models()) as it:
        both_ready(it)
        it.show(image_message())
        located, answered = point(it), ask(it)
        assert located.outcome.code == answered.outcome.code == Outcome.UNPARSABLE_ANSWER
        assert (located.affordances.report.model, answered.answer.report.model) == ("points", "words")


def test_the_models_load_one_after_the_other_and_the_first_one_answers_meanwhile(engines: dict[str, ScriptedEngine]) -> None:
    gate = asyncio.Event()
    engines["words"] = named("words", "A mug.", start_gate=gate)
    main_gate = asyncio.Event()
    main = named("points", "[(10, 10)]", start_gate=main_gate)
    with rig(main, **two_models()) as it:
        it.until(lambda: main.state == "loading", "the start of the main engine")
        assert engines["words"].state == "stopped"
        it.on_loop(main_gate.set)
        it.until(lambda: engines["words"].state == "loading", "the start of the second engine")
        it.show(image_message())
        assert point(it).outcome.code == Outcome.OK
        early = ask(it)
        assert early.outcome.code == Outcome.NOT_READY
        it.on_loop(gate.set)
        both_ready(it)
        assert ask(it).outcome.code == Outcome.OK


def test_a_model_that_cannot_be_loaded_fails_only_its_own_tasks(engines: dict[str, ScriptedEngine]) -> None:
    engines["words"] = named("words", "", start_error=EngineFailedError("The weights are truncated."))
    with rig(named("points", "[(10, 10)]"), **two_models()) as it:
        it.until_ready()
        it.show(image_message())
        status(it, "engine talker", DiagnosticStatus.ERROR)
        assert point(it).outcome.code == Outcome.OK
        failed = ask(it)
        assert failed.outcome.code == Outcome.ENGINE_FAILED
        assert "The weights are truncated." in failed.outcome.message


def test_cleanup_releases_every_model_and_a_second_round_loads_them_again(engines: dict[str, ScriptedEngine]) -> None:
    engines["words"] = named("words", "A mug.")
    with rig(named("points", "[(10, 10)]"), **two_models()) as it:
        for _ in range(2):
            both_ready(it)
            assert it.transition(Transition.TRANSITION_DEACTIVATE)
            assert it.transition(Transition.TRANSITION_CLEANUP)
            it.until(lambda: engines["words"].state == "stopped", "the end of the second engine")
            assert it.transition(Transition.TRANSITION_CONFIGURE)
            assert it.transition(Transition.TRANSITION_ACTIVATE)


def test_a_standing_query_waits_for_the_model_of_its_task(engines: dict[str, ScriptedEngine]) -> None:
    gate = asyncio.Event()
    engines["words"] = named("words", "A mug.", start_gate=gate)
    with rig(named("points", "[(10, 10)]"), **two_models()) as it:
        it.until_ready()
        it.show(image_message())
        request = SetStandingQuery.Request(name="what", enabled=True, task="ask", instruction="What is there?", rate=20.0)
        assert it.call(SetStandingQuery, "set_standing_query", request).outcome.code == Outcome.OK
        it.until(lambda: engines["words"].state == "loading", "the start of the second engine")
        assert not engines["words"].generations
        it.on_loop(gate.set)
        it.until(lambda: engines["words"].generations, "a request of the standing query")


def test_the_limit_of_images_is_that_of_the_tasks_model(engines: dict[str, ScriptedEngine]) -> None:
    engines["words"] = named("words", "A mug.")
    with rig(named("points", "[(10, 10)]"), **two_models(task_model__talker__engine__max_images=1)) as it:
        both_ready(it)
        refused = ask(it, images=[image_message(), image_message()])
        assert refused.outcome.code == Outcome.BAD_REQUEST
        assert "task_model.talker.engine.max_images" in refused.outcome.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task_model__talker__tasks": ["sing"]}, "contains 'sing', which is no task"),
        (
            {"task_model__talker__model_profile": "grm-3b"},
            "task_model.talker.*: tasks contains ask, plan, for which GRM has no prompt. It supports progress.",
        ),
        (
            {"task_model__talker__engine__model": "nvidia/Cosmos-Reason2-8B"},
            "tasks contains plan, for which Cosmos-Reason2 has no prompt. It supports ask, trajectory.",
        ),
        ({"task_model__talker__tasks": [""]}, "task_model.talker.tasks is empty"),
        ({"task_model__talker__engine__model": ""}, "task_model.talker.*: engine.model is empty"),
        ({"task_model__talker__engine__gpu_memory_utilization": 0.9}, "their shares add up to 1.4"),
        (
            {"task_models": ["talker", "other"], "task_model__other__tasks": ["plan"], "task_model__other__engine__model": "x"},
            "talker and other both serve plan",
        ),
    ],
)
def test_wrong_parameters_are_rejected_before_anything_loads(
    engines: dict[str, ScriptedEngine], changes: dict[str, Any], said: str
) -> None:
    main = named("points", "[(10, 10)]")
    with rig(main, **two_models(autostart=False, **changes)) as it:
        with pytest.raises(EngineConfigError) as caught:
            engine_setup.set_up_engines(it.node._settings, None, lambda work, what: work(), print, lambda: main)
        assert said in caught.value.message
        assert not it.transition(Transition.TRANSITION_CONFIGURE)
        assert main.state == "stopped"


def test_a_remote_model_needs_no_share_of_the_memory(engines: dict[str, ScriptedEngine]) -> None:
    engines["words"] = named("words", "A mug.")
    remote = {"task_model__talker__engine__kind": "remote", "task_model__talker__engine__urls": ["http://gpu:9010/v1"]}
    with rig(named("points", "[(10, 10)]"), **two_models(task_model__talker__engine__gpu_memory_utilization=0.9, **remote)) as it:
        both_ready(it)
        it.show(image_message())
        assert ask(it).answer.report.model == "words"


def test_an_explicit_value_of_a_models_option_overrides_its_preset() -> None:
    preset = {"task_model__talker__engine__model": "robobrain2.0-32b"}
    with rig(named("points", "[]"), **two_models(autostart=False, **preset)) as it:
        assert it.node._settings.engine_options("task_model.talker.") != EngineOptions()
        shown = it.parameter("task_model.talker.engine.max_num_seqs")
        assert shown == it.node._settings.engine_options("task_model.talker.").max_num_seqs
        assert it.parameter("engine.max_num_seqs") == EngineOptions().max_num_seqs


@pytest.mark.thorough
@pytest.mark.timeout(START + 60)
def test_two_real_engines_answer_side_by_side(tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.symlink_to(DEMO_MODEL)
    with rig(None, **two_models(task_model__talker__engine__model=str(second))) as it:
        it.until(lambda: it.node.model.is_ready(), "the main engine", START)
        it.until(lambda: all(model.is_ready() for _, model in it.node._models), "the second engine", START)
        it.show(image_message(width=640, height=480))
        located, answered = point(it), ask(it)
        assert located.outcome.code in (Outcome.OK, Outcome.NOTHING_FOUND)
        assert answered.outcome.code == Outcome.OK
        assert located.affordances.report.model != answered.answer.report.model
        assert answered.answer.report.model.endswith("second")
