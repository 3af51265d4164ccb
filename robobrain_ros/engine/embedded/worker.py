"""Runs in vLLM's processes and ends them when the process that owns the engine ends, however it ends.

vLLM imports this module in each worker through its option ``worker_extension_cls``. A process that is killed with SIGKILL cannot
end its children, and its engine's processes would keep the GPU. So each worker watches the owner: its process on the same
machine, a connection to the first machine on other machines. Ray ends its own workers with the process that started them.
"""

import os
import select
import signal
import socket
import threading

from robobrain_ros.engine.memory import return_free_memory_at_intervals

OWNER_VARIABLE = "ROBOBRAIN_ROS_ENGINE_OWNER"
"""Environment variable: where the owner's process id counts, and that id, as `owner_name` writes it."""

_CONNECT_TIMEOUT = 10.0
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""A machine that has lost its power is missed after two minutes."""


class OwnerWatch:
    """The extension of vLLM's worker class. On the owner's machine, importing its module is what counts."""

    def watch_first_machine(self, address: str, port: int) -> str:
        """End this worker when the engine's first machine lets go of vLLM's own rendezvous, unless it watches the owner already.

        :returns: "process" or "connection": what is watched.
        :raises OSError: nothing listens there.
        """
        if counts_here(os.environ.get(OWNER_VARIABLE, "")):
            return "process"
        watch_connection(address, port)
        return "connection"


def owner_name() -> str:
    """This process, as the owner of engines that it starts."""
    return f"{_where_ids_count()}:{os.getpid()}"


def _where_ids_count() -> str:
    """Where a process id means this process: a running system, and in it a container. Machines may have the same host name."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()}-{os.stat('/proc/self/ns/pid').st_ino}"


def counts_here(name: str) -> bool:
    """Whether an owner's process id, as `owner_name` writes it, means a process that this one can see."""
    where, _, pid = name.rpartition(":")
    return pid.isdigit() and where == _where_ids_count()


def watch_connection(address: str, port: int) -> None:
    """End this process when the listener at this address is gone. The listener is torch's TCPStore; nothing is sent to it.

    :raises OSError: nothing listens there.
    """
    connection = socket.create_connection((address, port), _CONNECT_TIMEOUT)
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    threading.Thread(target=_wait_for_the_end_of, args=(connection,), name="owner-watch", daemon=True).start()


def _wait_for_the_end_of(connection: socket.socket) -> None:
    try:
        while connection.recv(4096):
            continue
    except OSError:
        pass  # Reset, or not reachable any more.
    os.kill(os.getpid(), signal.SIGKILL)  # vLLM's process above it ends with its workers.


def watch_owner(name: str) -> None:
    """End this process, and vLLM's core process above it, as soon as the owner has ended. Returns at once."""
    pid = name.rpartition(":")[2]
    if not counts_here(name) or int(pid) == os.getpid():
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
    if owner_name() != os.environ[OWNER_VARIABLE]:  # Otherwise the node itself is the worker, and returns its own memory.
        return_free_memory_at_intervals()
