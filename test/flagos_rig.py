"""Engines with the stand-in for FlagGems on the CPU. The real FlagGems needs an accelerator."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engine_loop import OnLoop

from robobrain_ros.engine.base import EngineInfo
from robobrain_ros.engine.embedded.checkpoint import read_checkpoint
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.flagos import decision
from robobrain_ros.engine.flagos.choice import Choice
from robobrain_ros.engine.flagos.ledger import VARIABLE
from robobrain_ros.engine.options import EngineOptions


def choose(model: Path, **changes: Any) -> Choice:
    """Return the choice of operators for a checkpoint and these options of FlagOS."""
    options = EngineOptions.of(model=str(model), **{f"flagos_{name}": value for name, value in changes.items()})
    return decision.choose(options, read_checkpoint(model, local=True))


START = 600.0
"""Time limit in seconds for starting an engine."""


class StartedEngine(OnLoop):
    """A started engine on its own event loop."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__()
        self.engine = EmbeddedEngine(options)
        try:
            self.info: EngineInfo = self.wait(self.engine.start(lambda progress: None), START)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.wait(self.engine.close())
        assert self.loop.stop()


STAND_IN = Path(__file__).parent / "stand_in"
STAND_IN_PLUGIN = Path(__file__).parent / "stand_in_plugin"
_PLUGIN_METADATA = "Metadata-Version: 2.1\nName: vllm-plugin-fl\nVersion: 0.3.0\n"
_PLUGIN_ENTRY_POINTS = "[vllm.platform_plugins]\nfl = vllm_fl:register\n\n[vllm.general_plugins]\nfl = vllm_fl:register_model\n"


@contextmanager
def stand_in(folder: Path, behaviour: dict[str, str] | None = None) -> Iterator[pytest.MonkeyPatch]:
    """Put the stand-in for FlagGems on the path of this process and of its child processes.

    FlagGems' own variable GEMS_VENDOR states that there is a supported chip, although vLLM finds none.

    :param behaviour: behaviour of the operators; see the docstring of the stand-in.
    """
    told = folder / "behaviour.json"
    told.write_text(json.dumps(behaviour or {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STAND_IN))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("FLAG_GEMS_STAND_IN", str(told))
        patch.setenv("GEMS_VENDOR", "arm")
        yield patch


@contextmanager
def plugin(folder: Path, behaviour: str = "", flag_gems: dict[str, str] | None = None) -> Iterator[pytest.MonkeyPatch]:
    """Put the stand-ins for vllm-plugin-FL and FlagGems on the path of child processes, as if they were installed.

    :param behaviour: behaviour of the plugin; see its docstring.
    :param flag_gems: behaviour of FlagGems' operators.
    """
    information = folder / "site" / "vllm_plugin_fl-0.3.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(_PLUGIN_METADATA)
    (information / "entry_points.txt").write_text(_PLUGIN_ENTRY_POINTS)
    with stand_in(folder, flag_gems) as patch:
        patch.delenv(VARIABLE, raising=False)  # An earlier engine of this process may have set it for its workers.
        path = [str(information.parent), str(STAND_IN_PLUGIN), os.environ["PYTHONPATH"]]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.setenv("VLLM_FL_STAND_IN", behaviour)
        yield patch
