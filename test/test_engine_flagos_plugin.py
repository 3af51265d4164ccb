"""The platform of vllm-plugin-FL in a real vLLM. Each case has its own process, because vLLM chooses a platform once per process.

The plugin is a stand-in, whose platform is vLLM's own CPU platform. The code of vLLM that loads it is real.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flagos_rig import plugin
from random_checkpoint import make_random_checkpoint

from robobrain_ros.engine.flagos import plugin as fl_plugin
from robobrain_ros.engine.flagos.ledger import VARIABLE

TIMEOUT = 300.0
CHOOSE = """
import json, sys
from pathlib import Path
from robobrain_ros.engine.flagos import decision, plugin, tune_file
from robobrain_ros.engine.flagos.session import Session
from robobrain_ros.engine.embedded.checkpoint import read_checkpoint
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

model, *cases = sys.argv[1:]
checkpoint = read_checkpoint(Path(model), local=True)
for case in map(json.loads, cases):
    tuned = case.pop("tuned", None)
    options = EngineOptions.of(model=model, **case)
    if tuned is not None:
        key = tune_file.key_of(options, checkpoint)
        tune_file.write(tune_file.tune_file(options), tune_file.TuningResult(key, tuple(tuned)))
    try:
        choice = decision.choose(options, checkpoint)
    except EngineConfigError as error:
        print(json.dumps({"refused": error.message}))
        continue
    session = Session(choice, options)
    told = {name: value for name, value in session.environment().items() if value}
    session.release()
    print(json.dumps(vars(choice) | {"operators": choice.operators.value, "told": told, "in_charge": plugin.active_platform()}))
"""
ASK = """
import asyncio, json, sys
from contextlib import aclosing
import numpy as np
from robobrain_ros.engine.base import Generation
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.options import EngineOptions

async def ask():
    engine = EmbeddedEngine(EngineOptions.of(model=sys.argv[1], flagos_mode="on", flagos_exclude=("silu",)))
    info = await engine.start(lambda progress: None)
    image = np.zeros((224, 224, 3), np.uint8)
    async with aclosing(engine.generate(Generation("ask", "the mug", [image], 8))) as stream:
        tokens = [delta.tokens async for delta in stream]
    health = engine.health()
    await engine.close()
    said = {"active": info.flagos_active, "called": health.flagos_operators, "warning": health.warning, "tokens": sum(tokens)}
    print(json.dumps(info.details | said))

if __name__ == "__main__":
    asyncio.run(ask())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("plugin") / "checkpoint")


def run(
    folder: Path,
    program: str,
    *arguments: str,
    behaviour: str = "",
    flag_gems: dict[str, str] | None = None,
    variables: dict[str, str] | None = None,
) -> list[Any]:
    """Run a program in a process that has the plugin, and return the lines that it prints.

    :param behaviour: behaviour of the stand-in for the plugin; ``flag_gems`` is that of the stand-in for FlagGems.
    """
    script = folder / "script.py"
    script.write_text(program)
    with plugin(folder, behaviour, flag_gems) as patch:
        for name, value in (variables or {}).items():
            patch.setenv(name, value)
        command = [sys.executable, "-P", str(script), *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=TIMEOUT)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def choices(folder: Path, model: Path, *cases: dict[str, Any], **how: Any) -> list[Any]:
    """Resolve several options, one after the other in one process."""
    return run(folder, CHOOSE, str(model), *map(json.dumps, cases), **how)


def test_the_plugins_platform_runs_the_model_and_reports_its_operators(tmp_path: Path, model: Path) -> None:
    (said,) = run(tmp_path, ASK, str(model))
    assert said["flagos_platform"] == "fl"
    assert said["flagos"] == "vllm-plugin-FL's platform runs the model and selects FlagGems' operators itself."
    assert "vllm-plugin-FL 0.3.0" in said["flagos_parts"]
    assert set(said["flagos_registered"].split(", ")) == {"gelu", "argmax", "embedding", "exponential_", "pow_scalar"}
    assert said["active"]
    assert {"embedding", "gelu"} <= set(said["called"])
    assert "silu" not in said["called"]
    assert said["flagos_log"].endswith("called.log")
    assert said["tokens"] == 8


@pytest.mark.thorough
def test_where_its_operators_fail_the_platform_runs_native_ones(tmp_path: Path, model: Path) -> None:
    (said,) = run(tmp_path, ASK, str(model), flag_gems={"embedding": "raise"})
    assert (said["flagos_platform"], said["active"], said["called"]) == ("fl", False, [])
    assert said["flagos"] == "Native operators, after failures with FlagOS."
    assert said["warning"].startswith("FlagOS is disabled, because the engine failed with it")
    assert said["tokens"] == 8


def test_the_plugin_gets_the_selected_operators(tmp_path: Path, model: Path) -> None:
    """Without measurements on this platform the plugin chooses the operators. Once it has chosen, it stays in charge."""
    by_itself, named, without, off, other = choices(
        tmp_path, model, {}, {"flagos_mode": "on", "flagos_include": ["gelu"]}, {"flagos_exclude": ["silu"]},
        {"flagos_mode": "off"}, {"flagos_platform": "vllm"},
    )  # fmt: skip
    for choice in (by_itself, named, without):
        assert (choice["platform"], choice["in_charge"], choice["operators"]) == ("fl", "fl", "plugin")
        assert choice["told"].pop(fl_plugin.LOG_VARIABLE)
    assert "Nothing was measured yet" in by_itself["why"]
    assert [by_itself["told"], named["told"], without["told"]] == [
        {},
        {"VLLM_FL_FLAGOS_WHITELIST": "gelu"},
        {"VLLM_FL_FLAGOS_BLACKLIST": "silu"},
    ]
    assert (off["platform"], off["operators"], off["told"]) == ("fl", "native", {"USE_FLAGGEMS": "0"})
    assert "vllm-plugin-FL's platform is in charge of this process" in other["refused"]


def test_what_was_measured_on_its_platform_is_used_there(tmp_path: Path, model: Path) -> None:
    """This package applies the operators and watches them, as on vLLM's own platform. The plugin leaves FlagGems to it."""
    path = str(tmp_path / "flagos.json")
    some, none, elsewhere = choices(
        tmp_path, model, {"flagos_tune_file": path, "tuned": ["gelu", "silu"]}, {"flagos_tune_file": path, "tuned": []},
        {"flagos_tune_file": path, "extra": '{"max_logprobs": 3}'},
    )  # fmt: skip
    assert (some["platform"], some["operators"], some["include"]) == ("fl", "ours", ["gelu", "silu"])
    assert some["told"]["USE_FLAGGEMS"] == "0"
    assert VARIABLE in some["told"]
    assert (none["operators"], none["told"]) == ("native", {"USE_FLAGGEMS": "0"})
    assert elsewhere["operators"] == "plugin"
    assert "is for another way of running the model" in elsewhere["why"]
    (entry,) = json.loads(Path(path).read_text())["entries"]
    assert "vllm-plugin-FL 0.3.0" in entry["key"]["versions"]


@pytest.mark.parametrize(
    ("behaviour", "variables", "said"),
    [
        ("raise", {}, "ModuleNotFoundError: No module named 'flagcx'"),
        pytest.param("old", {}, "ImportError: cannot import name 'SparseWeightPatch' from 'vllm'", marks=pytest.mark.thorough),
        pytest.param("nothing", {}, "it found no chip that it supports", marks=pytest.mark.thorough),
        ("", {"VLLM_PLUGINS": "others"}, "VLLM_PLUGINS = 'others' in the environment does not include it"),
    ],
)
def test_the_reason_is_reported_if_vllm_does_not_use_the_plugin(
    tmp_path: Path, model: Path, behaviour: str, variables: dict[str, str], said: str
) -> None:
    """vLLM only writes a log line, and then runs the model on its own platform."""
    demanded, auto, own = choices(
        tmp_path, model, {"flagos_platform": "fl"}, {}, {"flagos_platform": "vllm"}, behaviour=behaviour, variables=variables
    )
    assert demanded["refused"].startswith(f"flagos.platform is fl, but vLLM cannot use vllm-plugin-FL 0.3.0 ({said})")
    assert auto["warning"].startswith(f"vLLM cannot use vllm-plugin-FL 0.3.0 ({said}). vLLM's own platform runs the model. ")
    assert own["warning"] == ""
    for choice in (auto, own):
        assert (choice["platform"], choice["in_charge"], choice["operators"]) == ("", "", "native")
        assert "fl" not in choice["told"].get("VLLM_PLUGINS", "").split(",")
