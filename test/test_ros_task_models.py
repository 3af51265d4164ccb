"""The parameter task_models: another engine serves some tasks."""

from typing import Any

import pytest
from fakes import Script, ScriptedEngine
from ros_rig import image_message, rig

from robobrain_ros.core.query import Task
from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError
from robobrain_ros.msg import Outcome
from robobrain_ros.ros import task_models
from robobrain_ros.ros.task_models import read_task_models
from robobrain_ros.srv import Ask, Locate

MAIN = EngineOptions.of(model="BAAI/RoboBrain2.0-7B", gpu_memory_utilization=0.5)
SERVER = "kind: remote, urls: ['http://gpu:9010/v1']"


def scripted(name: str, model_type: str, *scripts: str | Script, **options: Any) -> ScriptedEngine:
    info = EngineInfo(model=name, model_type=model_type, engine="scripted", cell=32 if model_type == "qwen3_vl" else 28)
    return ScriptedEngine(scripts, info, **options)


def test_entries_are_read() -> None:
    first, second = read_task_models(
        [
            f"ask, plan: {{{SERVER}, model: Qwen/Qwen3-VL-8B-Instruct, model_profile: qwen3-vl}}",
            "progress: {model: tanhuajie2001/Robo-Dopamine-GRM-3B, gpu_memory_utilization: 0.3, max_num_seqs: 4}",
        ],
        MAIN,
    )
    assert (first.tasks, first.options.kind, first.options.remote.urls, first.profile) == (
        (Task.ASK, Task.PLAN), "remote", ("http://gpu:9010/v1",), "qwen3-vl",
    )  # fmt: skip
    assert (second.name, second.options.embedded.gpu_memory_utilization, second.options.max_num_seqs) == ("progress", 0.3, 4)
    assert read_task_models([], MAIN) == ()


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["ask"], "does not have the form TASK, TASK: "),
        (["ask: {"], "is not YAML"),
        (["ask: {}\nplan: {}"], "does not have the form"),
        ([f"dance: {{{SERVER}}}"], "has the unknown task 'dance'. Known tasks are ask, point, "),
        ([f"ask: {{{SERVER}}}", f"plan, ask: {{{SERVER}}}"], "task_models has the task ask twice"),
        ([f"ask: {{{SERVER}, speed: 3}}"], "has the unknown option 'speed'"),
        (["ask: {gpu_memory_utilization: 0.2}"], "names no model"),
        (["ask: {model: x/y}"], "has no gpu_memory_utilization"),
        (["ask: {model: x/y, gpu_memory_utilization: 0.6}"], "use 1.10 of the GPU's memory"),
        (["ask: {model: x/y, gpu_memory_utilization: much}"], "gpu_memory_utilization is 'much', which has a wrong type"),
        ([f"ask: {{{SERVER}, max_num_seqs: true}}"], "max_num_seqs is 'True', which has a wrong type"),
        ([f"{task.value}: {{{SERVER}}}" for task in list(Task)[:5]], "At most 4 are allowed"),
    ],
)
def test_wrong_entries_are_rejected_with_one_sentence(entries: list[str], said: str) -> None:
    with pytest.raises(EngineConfigError) as caught:
        read_task_models(entries, MAIN)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_each_task_is_answered_by_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    main = scripted("RoboBrain2.0-7B", "qwen2_5_vl", "[(10, 10)]")
    other = scripted("Qwen3-VL-8B-Instruct", "qwen3_vl", "Two mugs.")
    monkeypatch.setattr(task_models, "make_engine", lambda *given: other)
    entry = f"ask, plan: {{{SERVER}, model: Qwen/Qwen3-VL-8B-Instruct}}"
    with rig(main, task_models=[entry], max_image_age=0.0) as running:
        running.until_ready()
        running.until(lambda: running.node.model.others["ask, plan"].is_ready(), "the other model")
        running.show(image_message())
        asked = running.call(Ask, "ask", Ask.Request(question="How many mugs?"))
        located = running.call(Locate, "point", Locate.Request(instruction="the mug"))
        assert (asked.outcome.code, asked.answer.text) == (Outcome.OK, "Two mugs.")
        assert asked.answer.report.model == "Qwen3-VL-8B-Instruct"
        assert asked.answer.report.profile == "qwen3-vl (identified by its name)"
        assert (located.outcome.code, located.affordances.report.model) == (Outcome.OK, "RoboBrain2.0-7B")
        assert (len(main.generations), len(other.generations)) == (1, 1)
        entry_of_other = running.node._diagnostics._engine(running.node.model.others["ask, plan"], "engine for ask, plan")
        values = {value.key: value.value for value in entry_of_other.values}
        assert (values["model"], values["state"]) == ("Qwen3-VL-8B-Instruct", "ready")
        assert entry_of_other.name.endswith("engine for ask, plan")
    assert (main.state, other.state) == ("stopped", "stopped")


def test_a_model_that_cannot_be_loaded_fails_only_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    main = scripted("RoboBrain2.0-7B", "qwen2_5_vl", "[(10, 10)]")
    broken = scripted("Qwen3-VL-8B-Instruct", "qwen3_vl", "x", start_error=EngineConfigError("The server is gone."))
    monkeypatch.setattr(task_models, "make_engine", lambda *given: broken)
    with rig(main, task_models=[f"ask: {{{SERVER}, model: Qwen/Qwen3-VL-8B-Instruct}}"], max_image_age=0.0) as running:
        running.until_ready()
        running.until(lambda: running.node.model.others["ask"].health().state == "failed", "the failure")
        running.show(image_message())
        asked = running.call(Ask, "ask", Ask.Request(question="How many mugs?"))
        located = running.call(Locate, "point", Locate.Request(instruction="the mug"))
        assert (asked.outcome.code, located.outcome.code) == (Outcome.ENGINE_FAILED, Outcome.OK)
        assert "The server is gone." in asked.outcome.message
