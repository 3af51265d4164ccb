"""The model of the node. It is loaded, used and unloaded on the engine's event loop, so that no thread of ROS waits for it."""

import asyncio
import concurrent.futures
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np

from robobrain_ros.bounds.texts import clean
from robobrain_ros.core.brain import Brain
from robobrain_ros.core.grids import GridCheck, GridMode, check_grid, require_grid
from robobrain_ros.core.profiles import AUTO, identify_model
from robobrain_ros.core.query import CAMERA_TASKS, Query, Report, Task
from robobrain_ros.engine import memory
from robobrain_ros.engine.base import Engine, EngineHealth, EngineInfo, LoadProgress
from robobrain_ros.engine.runtime import LoopThread
from robobrain_ros.engine.supervisor import Supervisor
from robobrain_ros.errors import (
    EngineFailedError,
    NothingFoundError,
    NotReadyError,
    RoboBrainError,
    UnparsableAnswerError,
)

EngineFactory = Callable[[], Engine]
Close = Callable[[], Awaitable[None]]

_WARM_UP_SIZE = (480, 640)
"""(height, width) of the grey image for the warm-up of each task."""
_WARM_UP_TOKENS = 8
_WARM_UP_TIMEOUT = 300.0
_LOG_INTERVAL = 10.0
"""Seconds between two log lines about one stage of loading."""


@dataclass(frozen=True)
class ModelSettings:
    """Settings of the model.

    :param can_think: whether the model was trained to think. None means as stated in the profile of its family.
    :param profile: name of the model profile, or `AUTO` to identify the model.
    :param grid_check: whether to check the grid of the answers after loading, and what a wrong grid causes.
    :param settle: whether to call `memory.settle_objects` after loading.
    :param tasks: tasks that the model serves. None: all tasks of its profile.
    """

    name: str
    max_pixels: int
    max_queued: int
    max_running: int
    warm_up: bool
    can_think: bool | None = None
    profile: str = AUTO
    grid_check: GridMode = GridMode.OFF
    settle: bool = False
    tasks: frozenset[Task] | None = None


class Model:
    """Loads a model in the background and answers queries with it.

    :param logger: logger of the node, for the progress.
    :param on_change: called in the engine's thread after a change of the state.
    :param beside: a model with which this one shares the loop. They load one after the other. Only `close` of that model ends the
        loop.
    """

    def __init__(self, logger: Any, on_change: Callable[[], None], beside: "Model | None" = None) -> None:
        self._logger = logger
        self._on_change = on_change
        self._loop: LoopThread = LoopThread() if beside is None else beside._loop
        self._turn: asyncio.Lock = asyncio.Lock() if beside is None else beside._turn
        """Allows one loading or unloading at a time. Used only on the loop."""
        self._supervisor: Supervisor | None = None
        self._on_unload: Close | None = None
        self._brain: Brain | None = None
        self._grid: GridCheck | None = None
        self._progress = LoadProgress("stopped", "The model is not loaded. Configure the node.")
        self._logged = 0.0
        self._error: RoboBrainError | None = None
        self._loading: concurrent.futures.Future[None] | None = None

    @property
    def progress(self) -> LoadProgress:
        """The progress of loading."""
        return self._progress

    @property
    def info(self) -> EngineInfo | None:
        """The loaded model, or None if no model is loaded."""
        return None if self._brain is None else self._brain.info

    @property
    def profile(self) -> str:
        """The profile of the loaded model and how it was identified, or an empty text if no model is loaded."""
        return self.new_report().profile

    @property
    def grid(self) -> GridCheck | None:
        """The result of the newest grid check, or None if there was none."""
        return None if self._brain is None else self._grid

    def new_report(self) -> Report:
        """Return a report that names the loaded model. It is empty if no model is loaded."""
        return Report() if self._brain is None else self._brain.new_report()

    def load(self, factory: EngineFactory, settings: ModelSettings, close: Close | None = None) -> None:
        """Start to load the model; return at once.

        :param close: called on the engine's loop after unloading. Releases objects that outlive a single engine.
        """
        self._loop.start()
        self._error = self._grid = None
        self._progress = LoadProgress("starting", f"Loading {settings.name}.")
        self._loading = self._loop.submit(self._load(factory, settings, close))

    def unload(self) -> "concurrent.futures.Future[None] | None":
        """Start to unload the model, cancel loading, and return at once.

        :returns: a future that is done after unloading, or None if nothing was loaded.
        """
        if not self._loop.running:
            return None
        if self._loading is not None:
            self._loading.cancel()
        self._brain = None
        self._progress = LoadProgress("stopped", "The model is not loaded. Configure the node.")
        return self._loop.submit(self._unload())

    def close(self, timeout: float) -> bool:
        """Unload and end the thread. Wait about ``timeout`` seconds at most, and return whether everything ended in time."""
        done = self.unload()
        in_time = done is None or not concurrent.futures.wait([done], timeout).not_done
        return self._loop.stop(timeout=1.0) and in_time

    def brain(self) -> Brain:
        """Return the brain that answers queries.

        :raises NotReadyError: the model is loading. The message contains the progress.
        :raises EngineFailedError: loading has failed. The message contains the reason.
        """
        if self._error is not None:
            raise EngineFailedError(f"The model could not be loaded: {self._error.message}")
        if self._brain is None:
            fraction = self._progress.fraction
            percent = "" if fraction is None else f" ({fraction:.0%})"
            raise NotReadyError(f"The model is not ready{percent}: {self._progress.message}")
        return self._brain

    def health(self) -> EngineHealth:
        """Return the current state. Callable from any thread."""
        if self._error is not None:
            return EngineHealth("failed", self._error.message)
        if self._supervisor is None or self._brain is None:
            return EngineHealth("stopped" if self._progress.stage == "stopped" else "loading", self._progress.message)
        return self._supervisor.health()

    def is_ready(self) -> bool:
        """Whether the model answers requests now."""
        return self.health().state == "ready"

    def submit(self, work: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Any]":
        """Run a coroutine on the engine's loop."""
        return self._loop.submit(work)

    async def _load(self, factory: EngineFactory, settings: ModelSettings, close: Close | None) -> None:
        async with self._turn:
            self._on_unload = close
            supervisor = Supervisor(
                factory,
                max_queued=settings.max_queued,
                max_running=settings.max_running,
                warm_up=_WarmUp(settings, self._note, self._on_grid_check),
            )
            self._supervisor = supervisor
            try:
                info = await supervisor.start(self._note)
                brain, warning = _brain(supervisor, info, settings)
            except RoboBrainError as error:
                self._fail(error)
            except Exception as error:
                self._logger.error(clean(traceback.format_exc()))
                self._fail(EngineFailedError(f"{type(error).__name__}: {error}"))
            else:
                self._brain = brain
                if warning:
                    self._logger.warning(clean(warning))
                self._note(LoadProgress("ready", f"{info.model} is ready ({brain.profile.family}, {info.engine}).", 1.0))

    async def _unload(self) -> None:
        async with self._turn:
            supervisor, self._supervisor = self._supervisor, None
            if supervisor is not None:
                await supervisor.close()
            close, self._on_unload = self._on_unload, None
            if close is not None:
                await close()

    def _fail(self, error: RoboBrainError) -> None:
        self._error = error
        self._logger.error(f"The model could not be loaded: {error.message}")
        self._on_change()

    def _on_grid_check(self, result: GridCheck) -> None:
        self._grid = result
        (self._logger.warning if result.suspicious else self._logger.info)(clean(f"Grid check: {result}"))

    def _note(self, progress: LoadProgress) -> None:
        if progress.stage == "ready" and self._brain is None:
            return  # The brain does not exist yet. `_load` reports this stage after it has created the brain.
        now = time.monotonic()
        if progress.stage != self._progress.stage or now - self._logged >= _LOG_INTERVAL:
            self._logger.info(clean(progress.message))
            self._logged = now
        self._progress = progress
        self._on_change()


class _WarmUp:
    """Runs each task of the family once, so that kernels are compiled and caches are filled before the first request.

    Then it checks the grid of the answers.

    :param on_grid_check: called with the result of the check.
    """

    def __init__(
        self,
        settings: ModelSettings,
        progress: Callable[[LoadProgress], None],
        on_grid_check: Callable[[GridCheck], None],
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._on_grid_check = on_grid_check

    async def __call__(self, engine: Engine, info: EngineInfo) -> None:
        if self._settings.warm_up:
            await self._ask(engine, info)
        if self._settings.grid_check is not GridMode.OFF:
            await self._check_grid(engine, info)
        if self._settings.settle:
            memory.settle_objects()

    async def _check_grid(self, engine: Engine, info: EngineInfo) -> None:
        self._progress(LoadProgress("checking the grid", "Checking the grid of the model's answers."))
        brain, _ = _brain(engine, info, self._settings)
        result = await check_grid(brain, at_once=self._settings.max_running)
        self._on_grid_check(result)
        if self._settings.grid_check is GridMode.REQUIRE:
            require_grid(result)

    async def _ask(self, engine: Engine, info: EngineInfo) -> None:
        brain, _ = _brain(engine, info, self._settings)
        image = np.full((*_WARM_UP_SIZE, 3), 128, np.uint8)
        tasks = brain.profile.tasks.intersection(CAMERA_TASKS)
        for task in tasks if self._settings.tasks is None else tasks & self._settings.tasks:
            self._progress(LoadProgress("warming up", f"Warming up: {task.value}."))
            query = Query(task, "warm up", [image], think=False, timeout=_WARM_UP_TIMEOUT, max_tokens=_WARM_UP_TOKENS)
            try:
                await brain.run(query)
            except (UnparsableAnswerError, NothingFoundError):
                continue  # The answer about a grey image does not matter.


def _brain(engine: Engine, info: EngineInfo, settings: ModelSettings) -> tuple[Brain, str]:
    """Return the brain, and a warning if its profile is a guess."""
    found = identify_model(info, settings.profile)
    profile = found.profile if settings.can_think is None else found.profile.with_thinking(settings.can_think)
    return Brain(engine, profile, info=info, max_pixels=settings.max_pixels, identified_by=found.by), found.warning
