"""The faults that the soak test injects. Each is a function of the test's client and processes; what it does is its docstring."""

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
"""Seconds that a program of the test may take to begin."""
_VICTIM_LIFE = 3.0
"""Seconds that a client lives after it has asked."""


@dataclass
class Surroundings:
    """What a fault may touch. ``namespace`` and ``url``: where the node and its HTTP server are."""

    client: SoakClient
    node: psutil.Process
    namespace: str
    url: str
    random: random.Random


def engine_core(node: psutil.Process) -> psutil.Process | None:
    """The engine's process below the node's; None: it is not running now."""
    for process in node.children(recursive=True):
        with suppress(psutil.Error):
            if "EngineCore" in " ".join(process.cmdline()) or "EngineCore" in process.name():
                return process
    return None


def _kill_engine(it: Surroundings) -> None:
    """The engine's process is killed (SIGKILL)."""
    if (engine := engine_core(it.node)) is not None:
        engine.kill()


def _stop_engine(it: Surroundings) -> None:
    """The engine's process is stopped (SIGSTOP) and never goes on."""
    if (engine := engine_core(it.node)) is not None:
        engine.send_signal(signal.SIGSTOP)
        it.client.wait(lambda: not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE, 180.0)


def _lose_camera(it: Surroundings) -> None:
    """The camera publishes nothing for a while."""
    it.client.camera_on = False
    it.client.spin(_LOST_CAMERA)
    it.client.camera_on = True


def _jump_clock(it: Surroundings) -> None:
    """Simulated time jumps, back or forward."""
    it.client.advance(it.random.choice([-500.0, -3.0, 3.0, 500.0]))


def _change_parameters(it: Surroundings) -> None:
    """Parameters change under load, some to values that are not allowed."""
    for name, value in (("think", True), ("max_tokens", -5), ("request_timeout", 1e300), ("max_tokens", 64), ("no.such", 1)):
        it.client.set_parameter(name, value)
        it.client.spin(0.2)
    it.client.set_parameter("think", False)
    it.client.set_parameter("max_tokens", 256)


def _load_http(it: Surroundings) -> None:
    """Several people ask the engine over HTTP without end."""
    program = Path(__file__).with_name("priority.py")
    command = [sys.executable, str(program), "--be-clients", it.url, "--clients", str(_HTTP_CLIENTS)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        it.client.spin(_HTTP_LOAD)
    finally:
        process.kill()
        process.wait(_CHILD)


def _kill_client(it: Surroundings) -> None:
    """A client asks eight times and is killed before the answers come."""
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), "--be-victim", it.namespace]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        it.client.spin(_VICTIM_LIFE + it.random.random())
    finally:
        process.kill()
        process.communicate(timeout=_CHILD)


def _send_nonsense(it: Surroundings) -> None:
    """Forty requests at once that must be rejected."""
    for _ in range(40):
        it.client.send_bad()


def _deactivate(it: Surroundings) -> None:
    """The node is deactivated under load and activated again; a transition that the state does not allow comes between."""
    for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
        it.client.change_state(transition)
        it.client.spin(1.0)


Fault = Callable[[Surroundings], None]

ENGINE_FAULTS: dict[str, Fault] = {"engine killed": _kill_engine, "engine stopped": _stop_engine}
"""Those after which another engine process starts."""
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
    """When which fault is injected: (fraction of the run, name), in order.

    Engine faults lie in the first half: over the second one, the memory of one engine process is measured.
    """
    dice = random.Random(seed)
    engine = [list(ENGINE_FAULTS)[number % len(ENGINE_FAULTS)] for number in range(count // 3)]
    others = [list(OTHER_FAULTS)[number % len(OTHER_FAULTS)] for number in range(count - len(engine))]
    plan = [(0.02 + 0.40 * (number + 0.5) / max(len(engine), 1), name) for number, name in enumerate(engine)]
    dice.shuffle(others)
    plan += [(0.02 + 0.93 * (number + 0.5) / max(len(others), 1), name) for number, name in enumerate(others)]
    return sorted(plan)


def inject(name: str, it: Surroundings, recovery: float) -> tuple[bool, float]:
    """Inject a fault; returns whether the node answers again within ``recovery`` seconds, and after how many it did."""
    began = time.monotonic()
    (ENGINE_FAULTS | OTHER_FAULTS)[name](it)
    while time.monotonic() - began < recovery:
        if not it.node.is_running():
            return False, time.monotonic() - began
        if it.client.probe():
            return True, time.monotonic() - began
        it.client.spin(0.5)
    return False, time.monotonic() - began
