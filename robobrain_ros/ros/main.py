"""The process of the node: command line, signals, and the executor's loop."""

import argparse
import re
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from robobrain_ros.engine.memory import keep_buffers
from robobrain_ros.ros.engine_setup import NAME_A_MODEL
from robobrain_ros.ros.node import RoboBrainNode
from robobrain_ros.ros.process import shutdown
from robobrain_ros.ros.process.command_line import check_parameter_files, own_arguments
from robobrain_ros.ros.process.rcl_errors import explain
from robobrain_ros.ros.process.transport_profile import free_taken_messages

_SAME_SIGNAL = 1.0
"""Signals within this number of seconds count as one. For example, Ctrl-C reaches both the node and launch, which forwards it."""

_FAULTS_IN_A_ROW = 10
"""Number of failed rounds of the executor in a row after which it pauses between rounds, so that it does not use a whole core."""
_PAUSE = 0.1
"""Length of this pause in seconds."""


class _Stop:
    """Handles SIGINT, SIGTERM and SIGHUP. The first signal sets ``requested``. A later one ends the process at once.

    The system sends SIGHUP when a terminal is closed or an SSH connection is lost. Under nohup, it stays ignored.
    """

    def __init__(self) -> None:
        self.requested = False
        self._at = 0.0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if not self.requested:
            self.requested = True
            self._at = time.monotonic()
            shutdown.force_exit_later()
        elif time.monotonic() - self._at >= _SAME_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


_TYPE_HINTS = {
    "DOUBLE": "Write the number with a decimal point, as in 1.0.",
    "INTEGER": "Write a whole number without a decimal point.",
    "BOOL": "Write true or false without quotes.",
    "STRING_ARRAY": "Write a list, as in [front] or [front, wrist].",
}
"""Advice about how to write a value of each type."""


def _explain(error: ParameterException) -> str:
    """Return rclpy's sentence about a wrong parameter without the surrounding text, and advice."""
    text = str(error).partition("Reason: ")[2] or str(error)
    text = re.sub(r"\.?: [\w.]+$", "", text) + "."
    wanted = re.search(r"expecting type '(\w+)'", text)
    hint = _TYPE_HINTS.get(wanted[1], "") if wanted else ""
    return f"{text} {hint}".strip()


def _check_command_line(arguments: list[str]) -> None:
    """Handle --help, and reject unknown arguments."""
    parser = argparse.ArgumentParser(
        prog="robobrain",
        description="Run the node robobrain until it is interrupted.",
        usage="robobrain [--help] [--ros-args [-p NAME:=VALUE ...] [--params-file FILE] [-r FROM:=TO ...] [--log-level LEVEL]]",
        epilog=f"{NAME_A_MODEL} All parameters: docs/reference/parameters.md or `ros2 param describe`.",
    )
    parser.parse_args(own_arguments(arguments))


def main(args: list[str] | None = None, default_model: Path | None = None) -> None:
    """Run the node until SIGINT, SIGTERM or SIGHUP.

    :param args: the command line, without the program's name. None means that of this process.
    :param default_model: see `RoboBrainNode`.
    """
    arguments = sys.argv[1:] if args is None else args
    _check_command_line(arguments)
    check_parameter_files("robobrain", arguments)
    keep_buffers()
    free_taken_messages()
    stop = _Stop()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # From rcl: an argument is malformed, or the log file or the keystore cannot be opened.
        sys.exit(f"robobrain: {explain(error)}")
    try:
        node = RoboBrainNode(default_model=default_model)
    except ParameterException as error:
        _refuse_to_start(f"A parameter is wrong: {_explain(error)}")
    except Exception as error:  # From rclpy: a name, a namespace or a parameter file is invalid, or the enclave is missing.
        _refuse_to_start(f"The node cannot start: {type(error).__name__}: {explain(error)}")
    node.stop_requested = lambda: stop.requested
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        _spin(executor, node, stop)
        node.finish_requests(executor)
    except ExternalShutdownException:
        pass
    finally:
        if not stop.requested:
            shutdown.force_exit_later()
        node.destroy_node()
        executor.shutdown(timeout_sec=1.0)
        rclpy.try_shutdown()
    shutdown.exit_now()


def _refuse_to_start(sentence: str) -> NoReturn:
    rclpy.logging.get_logger("robobrain").fatal(sentence)
    rclpy.shutdown()
    sys.exit(1)


def _spin(executor: SingleThreadedExecutor, node: RoboBrainNode, stop: _Stop) -> None:
    """Spin until a signal arrives, despite exceptions. Callbacks are guarded, so these exceptions come from rclpy itself."""
    faults = 0
    # Wakes the executor, so that a signal is noticed within 0.5 s. With a timeout, rclpy would create a timer in each round.
    node.create_timer(0.5, lambda: None, clock=Clock(clock_type=ClockType.STEADY_TIME))
    while not stop.requested and rclpy.ok():
        try:
            executor.spin_once()
            faults = 0
        except ExternalShutdownException:
            raise
        except Exception as error:
            faults += 1
            node.fault("A round of the executor", error)
            if faults >= _FAULTS_IN_A_ROW:
                time.sleep(_PAUSE)
