"""End vLLM's worker processes when the owner of the engine ends for any reason.

vLLM imports this module in each worker through its option ``worker_extension_cls``. An owner that is killed with SIGKILL cannot
end its children, and the engine's processes would keep the GPU. Therefore each worker watches the owner: on the same machine
its process, on other machines a connection to the first machine. Ray itself ends its workers with the process that started
them.
"""

import os
import select
import signal
import socket
import threading

from robobrain_ros.engine.memory import return_free_memory_at_intervals

OWNER_VARIABLE = "ROBOBRAIN_ROS_ENGINE_OWNER"
"""Environment variable with the owner's name, as returned by `owner_name`: its container and its process id."""

_CONNECT_TIMEOUT = 10.0
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""With these values, a machine without power is noticed after two minutes."""


class OwnerWatch:
    """The extension of vLLM's worker class. On the owner's machine, the import of this module starts the watch."""

    def watch_first_machine(self, address: str, port: int) -> str:
        """End this worker when the first machine closes the connection of vLLM's rendezvous.

        On the owner's machine, do nothing, because the worker watches the owner's process.

        :returns: what the worker watches: "process" or "connection".
        :raises OSError: the connection failed.
        """
        if in_same_container(os.environ.get(OWNER_VARIABLE, "")):
            return "process"
        watch_connection(address, port)
        return "connection"


def owner_name() -> str:
    """Return the name of this process as the owner of an engine."""
    return f"{_id_space()}:{os.getpid()}"


def _id_space() -> str:
    """Return an id of the running system and the container in which process ids are valid. Host names are not unique."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()}-{os.stat('/proc/self/ns/pid').st_ino}"


def in_same_container(name: str) -> bool:
    """Whether the process id in an owner's name is valid in this container."""
    where, _, pid = name.rpartition(":")
    return pid.isdigit() and where == _id_space()


def watch_connection(address: str, port: int) -> None:
    """End this process when the listener at this address ends. The listener is torch's TCPStore; nothing is sent to it.

    :raises OSError: the connection failed.
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
        pass  # The connection was reset, or the machine is unreachable.
    os.kill(os.getpid(), signal.SIGKILL)  # The parent process of vLLM ends with its workers.


def watch_owner(name: str) -> None:
    """End this process and its parent, vLLM's core process, as soon as the owner has ended. Return at once."""
    pid = name.rpartition(":")[2]
    if not in_same_container(name) or int(pid) == os.getpid():
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
    # The parent is vLLM's core process or the owner. If both have ended, it is the process that adopts orphans, which must live
    # on.
    if parent not in (0, 1, owner) and _is_engine(parent):
        os.kill(parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_engine(pid: int) -> bool:
    """Whether a process belongs to the same engine: it has the owner's name in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{OWNER_VARIABLE}={os.environ[OWNER_VARIABLE]}".encode() in file.read().split(b"\0")
    except OSError:
        return False


if OWNER_VARIABLE in os.environ:
    watch_owner(os.environ[OWNER_VARIABLE])
    if owner_name() != os.environ[OWNER_VARIABLE]:  # If the node itself is the worker, it returns its memory by `MemoryReturn`.
        return_free_memory_at_intervals()
