"""The environment variables that the engine sets for vLLM, and those that it does not change."""

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from robobrain_ros.engine import environment as engine_environment
from robobrain_ros.engine.embedded import starting
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.embedded.child_log import LOGGING_VARIABLE, ChildLog
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

LOCAL = Checkpoint(Path("/models/x"), True, "qwen2_5_vl", 28, 3136, 1003520, 8192, "bfloat16", 0.1)


@pytest.fixture
def log() -> Iterator[ChildLog]:
    log = ChildLog.create("error")
    yield log
    log.release()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Provide a separate environment for the test."""
    own: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", own)
    monkeypatch.setattr(engine_environment, "_set", {})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return own


def test_a_local_folder_puts_the_hub_out_of_reach_only_for_itself(environment: dict[str, str], log: ChildLog) -> None:
    """The next engine may use a model of the hub."""
    for _ in range(2):
        starting.set_environment(EngineOptions(), LOCAL, log)
        assert (environment["HF_HUB_OFFLINE"], constants.HF_HUB_OFFLINE) == ("1", True)
        engine_environment.go_online()
        assert ("HF_HUB_OFFLINE" in environment, constants.HF_HUB_OFFLINE) == (False, False)


def test_the_next_engine_gets_its_own_settings(environment: dict[str, str], log: ChildLog) -> None:
    """Variables of an earlier engine do not come from the user."""
    for gib in (1, 2):
        starting.set_environment(EngineOptions.of(cpu_memory_gib=gib), LOCAL, log)
        assert environment["VLLM_CPU_KVCACHE_SPACE"] == str(gib)


def test_what_the_user_has_set_stays(environment: dict[str, str], log: ChildLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """They also stay after a second start."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    users = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "7",
        "PYTHONWARNINGS": "default",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    }
    environment |= users
    for _ in range(2):
        starting.set_environment(EngineOptions(), LOCAL, log)
        engine_environment.go_online()
    assert {name: environment[name] for name in users} == users
    assert constants.HF_HUB_OFFLINE


def test_the_kernels_that_onednn_keeps_are_few(environment: dict[str, str], log: ChildLog) -> None:
    """By default, oneDNN caches 1024 kernels, one for each shape, so a worker would grow for thousands of requests."""
    starting.set_environment(EngineOptions(), LOCAL, log)
    assert environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "32"


def test_only_a_quiet_engine_hides_warnings(environment: dict[str, str], log: ChildLog) -> None:
    """With another log level, the user wants to see all warnings."""
    starting.set_environment(EngineOptions.of(log_level="info"), LOCAL, log)
    assert "PYTHONWARNINGS" not in environment
    starting.set_environment(EngineOptions(), LOCAL, log)
    assert environment["PYTHONWARNINGS"].split(",")[0] == "ignore::FutureWarning"


def test_settings_are_there_before_flagos_may_import_vllm(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM reads the settings at import. If the engine does not start, its files are removed."""
    seen: list[tuple[Path, bool]] = []

    def choose(*_arguments: object) -> None:
        path = Path(environment[LOGGING_VARIABLE])
        seen.append((path, path.exists()))
        raise EngineConfigError("No.")

    monkeypatch.setattr("robobrain_ros.engine.embedded.engine.choose", choose)
    with pytest.raises(EngineConfigError, match="No"):
        asyncio.run(EmbeddedEngine(EngineOptions())._try_to_start(LOCAL, lambda progress: None))
    ((path, existed),) = seen
    assert existed
    assert not path.parent.exists()
    assert LOGGING_VARIABLE not in environment


def test_a_later_engine_logs_the_messages_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM reads its logging configuration only once, when the first engine imports it."""
    monkeypatch.setitem(sys.modules, "vllm", sys.modules[__name__])
    said = logging.getLogger("vllm.model_executor.models.registry")
    first = ChildLog.create("error")
    first.release()
    second = ChildLog.create("error")
    said.error("ImportError: cannot import name")
    heard = second.read()
    second.release()
    said.error("Unheard.")
    assert heard.splitlines() == [f"ERROR [{os.getpid()}] ImportError: cannot import name"]
