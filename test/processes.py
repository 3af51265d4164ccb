"""The processes of engines, for tests that count or kill them."""

from contextlib import suppress

import psutil


def engine_processes(kind: str = "VLLM") -> set[psutil.Process]:
    """The living processes below this one whose command line holds ``kind``; of vLLM there are "VLLM::EngineCore" and workers."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # Its child ZombieProcess too: dead, not yet waited for.
            if kind in " ".join(process.cmdline()):
                found.add(process)
    return found
