"""Start, count and kill processes in tests."""

from contextlib import suppress

import psutil

USUAL_SIGNALS = ("env", "--default-signal=INT,HUP")
"""Prefix of a command that restores the default signals. Tests in the background or under nohup ignore some signals."""


def engine_processes(kind: str = "VLLM") -> set[psutil.Process]:
    """Return the running child processes whose command line contains ``kind``. vLLM has "VLLM::EngineCore" and workers."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # Also if it is a zombie.
            if kind in " ".join(process.cmdline()):
                found.add(process)
    return found
