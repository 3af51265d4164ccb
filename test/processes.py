"""Processes that tests start, count or kill."""

from contextlib import suppress

import psutil

USUAL_SIGNALS = ("env", "--default-signal=INT,HUP")
"""Before a command: the program does what signals demand, also where the tests ignore them, in the background or under nohup."""


def engine_processes(kind: str = "VLLM") -> set[psutil.Process]:
    """The living processes below this one whose command line holds ``kind``; of vLLM there are "VLLM::EngineCore" and workers."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # Its child ZombieProcess too: dead, not yet waited for.
            if kind in " ".join(process.cmdline()):
                found.add(process)
    return found
