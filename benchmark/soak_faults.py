"""The faults of the soak test. Each fault is a function, and its docstring describes the fault."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from lifecycle_msgs.msg import Transition
from soak_client import SoakClient

_LOST_CAMERA = 5.0
"""Seconds without a camera."""
_HTTP_LOAD = 10.0
"""Seconds of load over HTTP."""
_HTTP_CLIENTS = 6
_CHILD = 30.0
"""Time limit in seconds for the start of a program."""
_VICTIM_LIFE = 3.0
"""Seconds from the requests of a client until it is killed."""


@dataclass
class FaultTargets:
    """Objects that faults use. ``namespace`` is that of the node, and ``url`` that of its HTTP server."""

    client: SoakClient
    node: psutil.Process
    namespace: str
    url: str
    random: random.Random


def engine_core(node: psutil.Process) -> psutil.Process | None:
    """Return the engine process of the node. None: it is not running."""
    for process in node.children(recursive=True):
        with suppress(psutil.Error):
            if "EngineCore" in " ".join(process.cmdline()) or "EngineCore" in process.name():
                return process
    return None


def _kill_engine(it: FaultTargets) -> None:
    """The engine process is killed (SIGKILL)."""
    if (engine := engine_core(it.node)) is not None:
        engine.kill()


def _stop_engine(it: FaultTargets) -> None:
    """The engine process is stopped (SIGSTOP) and does not continue."""
    if (engine := engine_core(it.node)) is not None:
        engine.send_signal(signal.SIGSTOP)
        it.client.wait(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, 180.0)


def _lose_camera(it: FaultTargets) -> None:
    """The camera publishes no images for some time."""
    it.client.camera_on = False
    it.client.spin(_LOST_CAMERA)
    it.client.camera_on = True


def _jump_clock(it: FaultTargets) -> None:
    """Simulated time jumps back or forward."""
    it.client.advance(it.random.choice([-500.0, -3.0, 3.0, 500.0]))


def _change_parameters(it: FaultTargets) -> None:
    """Parameters are changed under load. Some values are not allowed."""
    for name, value in (("think", True), ("max_tokens", -5), ("request_timeout", 1e300), ("max_tokens", 64), ("no.such", 1)):
        it.client.set_parameter(name, value)
        it.client.spin(0.2)
    it.client.set_parameter("think", False)
    it.client.set_parameter("max_tokens", 256)


def _load_http(it: FaultTargets) -> None:
    """Several HTTP clients send requests to the engine without pause."""
    program = Path(__file__).with_name("priority.py")
    command = [sys.executable, str(program), "--be-clients", it.url, "--clients", str(_HTTP_CLIENTS)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        it.client.spin(_HTTP_LOAD)
    finally:
        process.kill()
        process.wait(_CHILD)


def _kill_client(it: FaultTargets) -> None:
    """A client sends eight requests and is killed before the responses arrive."""
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "--be-victim", it.namespace]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        it.client.spin(_VICTIM_LIFE + it.random.random())
    finally:
        process.kill()
        process.communicate(timeout=_CHILD)


def _send_nonsense(it: FaultTargets) -> None:
    """Forty invalid requests arrive at once."""
    for _ in range(40):
        it.client.send_bad()


def _deactivate(it: FaultTargets) -> None:
    """The node is deactivated under load and activated again, with an invalid transition in between."""
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        it.client.change_state(transition)
        it.client.spin(1.0)


Fault = Callable[[FaultTargets], None]

ENGINE_FAULTS: dict[str, Fault] = {"engine killed": _kill_engine, "engine stopped": _stop_engine}
"""Faults after which a new engine process starts."""
OTHER_FAULTS: dict[str, Fault] = {
    "camera lost": _lose_camera,
    "clock jump": _jump_clock,
    "parameter changes": _change_parameters,
    "HTTP load": _load_http,
    "client killed": _kill_client,
    "invalid requests": _send_nonsense,
    "deactivated": _deactivate,
}


def schedule(count: int, seed: int) -> list[tuple[float, str]]:
    """Return the schedule of the faults in order: (fraction of the run, name).

    Engine faults are in the first half, because the memory of one engine process is measured over the second half.
    """
    dice = random.Random(seed)
    engine = [list(ENGINE_FAULTS)[number % len(ENGINE_FAULTS)] for number in range(count // 3)]
    others = [list(OTHER_FAULTS)[number % len(OTHER_FAULTS)] for number in range(count - len(engine))]
    plan = [(0.02 + 0.40 * (number + 0.5) / max(len(engine), 1), name) for number, name in enumerate(engine)]
    dice.shuffle(others)
    plan += [(0.02 + 0.93 * (number + 0.5) / max(len(others), 1), name) for number, name in enumerate(others)]
    return sorted(plan)


def inject(name: str, it: FaultTargets, recovery: float) -> tuple[bool, float]:
    """Inject a fault. Return whether the node answers within ``recovery`` seconds, and the seconds until the answer."""
    began = time.monotonic()
    (ENGINE_FAULTS | OTHER_FAULTS)[name](it)
    while time.monotonic() - began < recovery:
        if not it.node.is_running():
            return False, time.monotonic() - began
        if it.client.probe():
            return True, time.monotonic() - began
        it.client.spin(0.5)
    return False, time.monotonic() - began
