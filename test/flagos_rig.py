"""Engines with the stand-in for FlagGems: on the CPU, where the real one has no accelerator to run on."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STAND_IN = Path(__file__).parent / "stand_in"


@contextmanager
def stand_in(folder: Path, behaviour: dict[str, str] | None = None) -> Iterator[pytest.MonkeyPatch]:
    """Let this process, and those that it starts, find the stand-in, whose operators behave as told (see its docstring).

    FlagGems' own variable GEMS_VENDOR says that there is a chip for it, though vLLM sees none.
    """
    told = folder / "behaviour.json"
    told.write_text(json.dumps(behaviour or {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STAND_IN))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("FLAG_GEMS_STAND_IN", str(told))
        patch.setenv("GEMS_VENDOR", "arm")
        yield patch
