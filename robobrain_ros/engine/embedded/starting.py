"""Start vLLM's engine in a thread with a time limit, and record its processes."""

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from robobrain_ros.engine import environment
from robobrain_ros.engine.base import LoadProgress, ProgressCallback
from robobrain_ros.engine.embedded import arguments, compat, image_bytes, leftovers, processes, space, worker
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.embedded.child_log import LOGGING_VARIABLE, ChildLog
from robobrain_ros.engine.flagos.session import Session
from robobrain_ros.engine.memory import paused_collection
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError, EngineFailedError

_log = logging.getLogger(__name__)

RPC_TIMEOUT = 60.0
"""Time limit in seconds for a call to vLLM's workers."""

_PROGRESS_INTERVAL = 2.0
_CANCEL_TIMEOUT = 4.0
"""Time limit in seconds for cancelling a start. On a slow machine, the import of vLLM takes longer. The node does not wait for
it."""
_KILL_AFTER = 1.5
"""Seconds of `_CANCEL_TIMEOUT` after which processes are killed, because vLLM can ignore SIGTERM while it loads."""
_HIDDEN_WARNINGS = "ignore::FutureWarning,ignore:resource_tracker:UserWarning"
"""The second warning is about shared memory of a killed process, which `leftovers` removes."""


@contextmanager
def _ctrl_c_spares_children() -> Iterator[None]:
    """Block SIGINT in the processes that this thread starts inside the ``with`` block, and in their children.

    Ctrl-C in a terminal signals all processes. The node ends vLLM's processes in order. With SIGINT, they would end during an
    answer, or write a traceback during imports.
    """
    # The resource tracker must start before the signal is blocked, because its start unblocks the signal in this thread.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class VllmStart:
    """One start of vLLM's engine.

    :param folder: records the processes of the engine.
    """

    def __init__(self, options: EngineOptions, checkpoint: Checkpoint, flagos: Session, folder: leftovers.RunFolder) -> None:
        self._options = options
        self._checkpoint = checkpoint
        self._flagos = flagos
        self._folder = folder
        self._cancelled = threading.Event()
        self._others = multiprocessing.active_children()
        """Child processes that do not belong to this engine."""

    async def run(self) -> Any:
        """Start vLLM's engine in another thread, because this takes many seconds. The event loop is not blocked.

        :raises EngineConfigError: the engine did not start within the time limit.
        """
        # The thread appends the engine to a list instead of returning it. References to a returned result would exist until the
        # interpreter exits, and an engine that is deleted at that time writes a traceback.
        built: list[Any] = []

        def build() -> None:
            built.append(self._build())

        building = asyncio.ensure_future(asyncio.to_thread(build))
        recording = asyncio.create_task(self._keep_record())
        try:
            await asyncio.wait_for(asyncio.shield(building), self._options.start_timeout)
        except (asyncio.CancelledError, asyncio.TimeoutError) as error:
            self._cancelled.set()
            await self._cancel(building)
            building.add_done_callback(partial(_shut_down_late, built))
            if isinstance(error, asyncio.TimeoutError):
                raise EngineConfigError(
                    f"The engine did not start within engine.start_timeout = {self._options.start_timeout:.0f} s. Raise it, or "
                    "look for the reason in vLLM's log."
                ) from error
            raise
        finally:
            recording.cancel()
        return built.pop()

    async def finish(self, vllm: Any) -> None:
        """Record the processes of the started engine, and let them watch the first of several machines."""
        await asyncio.to_thread(self._record)
        if self._options.embedded.nnodes > 1:
            first_machine = self._options.embedded.master_addr, self._options.embedded.master_port
            await vllm.collective_rpc("watch_first_machine", timeout=RPC_TIMEOUT, args=first_machine)

    def _build(self) -> Any:
        environment.set_variables(self._flagos.environment())
        with paused_collection():
            from vllm import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM

        options = self._options
        device = str(current_platform.device_type)
        if device != "cpu":
            arguments.check_device_count(options)
        extra = options.embedded.extra_arguments()
        arguments.reject_unknown(extra, {item.name for item in fields(AsyncEngineArgs)})
        ours = arguments.engine_arguments(options, self._checkpoint, device, self._flagos.choice)
        values = arguments.with_extra(ours, extra)
        environment.set_variables(arguments.environment_for(values, device))
        if options.embedded.nnodes > 1:
            arguments.log_join_commands(options, values)
        compat.silence_death_logs()
        engine_arguments = AsyncEngineArgs(**values)
        if self._cancelled.is_set():  # The import of vLLM can take long, and the start can be cancelled meanwhile.
            raise EngineFailedError("Starting the engine was cancelled.")
        try:
            with _ctrl_c_spares_children():
                # No variable may refer to the engine, because the tracebacks of failed imports keep this frame alive.
                return _with_patch_processor(AsyncLLM.from_engine_args(engine_arguments), arguments.asks_for_bytes(values))
        finally:
            if device == "cpu":
                # Only the engine's process needs this variable. In this process, vLLM would prepare images with as many threads.
                environment.set_variables({"OMP_NUM_THREADS": None})

    async def _keep_record(self) -> None:
        while True:
            await asyncio.to_thread(self._record)
            await asyncio.sleep(_PROGRESS_INTERVAL)

    def _record(self) -> None:
        mine = [process.pid for process in multiprocessing.active_children() if process not in self._others]
        self._folder.record(pid for pid in mine if pid is not None)

    async def _cancel(self, building: "asyncio.Future[None]") -> None:
        """End the thread that starts the engine. Otherwise the next engine would share the GPU with this one.

        A thread cannot be stopped from outside. This one ends after the processes that it started have ended.
        """
        ending = asyncio.create_task(self._end_children(building), name="engine-cancel")
        building.add_done_callback(lambda _: ending.done())  # Keeps a reference to the task until then.
        await asyncio.wait({building}, timeout=_CANCEL_TIMEOUT)

    async def _end_children(self, building: "asyncio.Future[None]") -> None:
        began = time.monotonic()
        while not building.done():
            _end_processes([it for it in multiprocessing.active_children() if it not in self._others], time.monotonic() - began)
            await asyncio.wait({building}, timeout=0.2)


def _end_processes(processes: Sequence[BaseProcess], waited: float) -> None:
    for process in processes:
        if waited < _KILL_AFTER:
            process.terminate()
        else:
            process.kill()


def _with_patch_processor(engine: Any, sends_bytes: bool) -> Any:
    if sends_bytes:
        try:
            image_bytes.use_patch_processor(compat.image_processing(engine))
        except Exception:  # The processor of transformers gives the same result.
            _log.warning("transformers prepares the image patches instead, which takes longer.", exc_info=True)
    return engine


def _shut_down_late(built: list[Any], building: "asyncio.Future[None]") -> None:
    """Shut down an engine that was built after its start was cancelled."""
    if not building.cancelled() and building.exception() is None:
        threading.Thread(target=compat.shut_down, args=(built.pop(),), name="engine-shutdown").start()


def make_folder() -> leftovers.RunFolder:
    """Remove the leftovers of dead engines, and create the folder of a new engine.

    :raises EngineConfigError: there is not enough disk space.
    """
    leftovers.sweep()
    try:
        folder = leftovers.RunFolder()
        try:
            space.check_room(folder.path)
        except OSError:
            folder.release()
            raise
        return folder
    except OSError as error:
        raise _no_temporary_files(error) from error


def open_log(level: str, folder: leftovers.RunFolder) -> ChildLog:
    """Create the log of a start in the engine's folder.

    :raises EngineConfigError: there is not enough disk space.
    """
    try:
        return ChildLog.create(level, folder.path)
    except OSError as error:
        raise _no_temporary_files(error) from error


def _no_temporary_files(error: OSError) -> EngineConfigError:
    return EngineConfigError(
        f"No folder for temporary files is writable ({error.strerror or error}). Free some space, or set the environment "
        "variable TMPDIR to another folder."
    )


def set_environment(options: EngineOptions, checkpoint: Checkpoint, log: ChildLog) -> None:
    """Set the environment variables of vLLM and its processes. Variables that the user has set keep their values."""
    os.environ[worker.OWNER_VARIABLE] = worker.owner_name()
    values = {
        LOGGING_VARIABLE: str(log.configuration),
        # A forked child of a process with threads, such as those of ROS, can hang.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(options.embedded.cpu_memory_gib),
        "TOKENIZERS_PARALLELISM": "false",
        # oneDNN caches a kernel for each shape, 1024 by default, so the memory of a CPU engine's worker grew with each new shape.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    }
    if options.embedded.quiet:
        # These warnings are for developers of libraries. Users cannot act on them.
        values |= {"PYTHONWARNINGS": _HIDDEN_WARNINGS, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|torch|vllm)\.")
    environment.set_variables(values)
    if checkpoint.local:
        environment.go_offline()


class ProgressReporter(threading.Thread):
    """Reports every few seconds that the engine is still starting, because loading a model takes minutes."""

    def __init__(
        self,
        progress: ProgressCallback,
        checkpoint: Checkpoint,
        present: Callable[[], Iterable[processes.Process]],
        *,
        with_flagos: bool = False,
    ) -> None:
        """Create the thread.

        :param present: returns the recorded processes of the engine.
        """
        super().__init__(name="engine-progress", daemon=True)
        self._present = present
        self._progress = progress
        self._flagos = " FlagGems compiles its operators, which takes minutes the first time." if with_flagos else ""
        self._size = f" ({checkpoint.gigabytes:.1f} GB of weights)" if checkpoint.gigabytes >= 0.1 else ""
        self._done = threading.Event()

    def run(self) -> None:
        """Report until stopped."""
        began = time.monotonic()
        while True:
            seconds = time.monotonic() - began
            message = f"Starting the engine and loading the model{self._size}: {seconds:.0f} s.{self._flagos}{self._stopped()}"
            self._progress(LoadProgress("loading", message))
            if self._done.wait(_PROGRESS_INTERVAL):
                return

    def _stopped(self) -> str:
        """Return a sentence about a stopped process, which would never finish loading, or an empty string."""
        found = (processes.read_process(process.pid) for process in self._present())
        stopped = next((process.pid for process in found if process is not None and process.stopped), 0)
        return f" Its process {stopped} is stopped (SIGSTOP or a debugger). Continue it with kill -CONT." if stopped else ""

    def stop(self) -> None:
        """Stop reporting. Returns after the last report."""
        self._done.set()
        self.join(timeout=5.0)
