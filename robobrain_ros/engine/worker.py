"""What runs inside of vLLM's processes: they end when the process that owns the engine ends, however it ends.

vLLM imports this module in each worker through its own option ``worker_extension_cls``. A process killed with SIGKILL cannot
say goodbye, and its engine's processes would live on, holding the GPU. So each worker watches the owner.
"""

import os
import select
import signal
import socket
import threading

OWNER_VARIABLE = "ROBOBRAIN_ROS_ENGINE_OWNER"
"""Environment variable: host and process id of the owner, as `owner_name` writes it."""


class OwnerWatch:
    """The (empty) extension of vLLM's worker class; importing its module is what counts."""


def owner_name() -> str:
    """This process, as the owner of engines that it starts. The host matters where workers run on several."""
    return f"{socket.gethostname()}:{os.getpid()}"


def watch_owner(name: str) -> None:
    """End this process, and vLLM's core process above it, as soon as the owner has ended. Returns at once."""
    host, _, pid = name.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit() or int(pid) == os.getpid():
        return
    threading.Thread(target=_wait_and_end, args=(int(pid),), name="owner-watch", daemon=True).start()


def _wait_and_end(owner: int) -> None:
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        _end(owner)
        return
    select.select([descriptor], [], [])
    _end(owner)


def _end(owner: int) -> None:
    parent = os.getppid()
    # The parent is vLLM's core process, or the owner itself, or, when both are gone, whoever adopts orphans: not ours to end.
    if parent not in (0, 1, owner) and _is_engine(parent):
        os.kill(parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_engine(pid: int) -> bool:
    """Whether a process was started by the owner too: it has inherited the same environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{OWNER_VARIABLE}={os.environ[OWNER_VARIABLE]}".encode() in file.read().split(b"\0")
    except OSError:
        return False


if OWNER_VARIABLE in os.environ:
    watch_owner(os.environ[OWNER_VARIABLE])
