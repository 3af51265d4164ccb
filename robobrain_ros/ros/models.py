"""The models of the node: the main one, and those that serve single tasks. They share one event loop."""

import concurrent.futures
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from robobrain_ros.core.query import Task
from robobrain_ros.ros.engine_setup import EngineSetup
from robobrain_ros.ros.model import Model


class Models:
    """Loads the models one after the other, because vLLM measures the free memory of the device when an engine starts.

    :param logger: see `Model`.
    :param on_change: see `Model`.
    """

    def __init__(self, logger: Any, on_change: Callable[[], None]) -> None:
        self.main = Model(logger, on_change)
        """The model of all tasks that no other model serves."""
        self._logger = logger
        self._on_change = on_change
        self._others: dict[str, Model] = {}
        self._serving: dict[Task, Model] = {}

    def __iter__(self) -> Iterator[tuple[str, Model]]:
        """Iterate over the models for single tasks, with their names."""
        return iter(list(self._others.items()))

    def serving(self, task: Task) -> Model:
        """Return the model that serves a task."""
        return self._serving.get(task, self.main)

    def is_ready(self, task: Task) -> bool:
        """Whether the model that serves a task answers requests now."""
        return self.serving(task).is_ready()

    def load(self, setups: Sequence[EngineSetup]) -> None:
        """Start to load the models; return at once.

        :param setups: the main model, then those for single tasks.
        """
        main, *others = setups
        self.main.load(main.factory, main.settings, None if main.front is None else main.front.close)
        self._others = {it.name: Model(self._logger, self._on_change, beside=self.main) for it in others}
        self._serving = {task: self._others[it.name] for it in others for task in it.settings.tasks or ()}
        for setup in others:
            self._others[setup.name].load(setup.factory, setup.settings)

    def unload(self) -> "list[concurrent.futures.Future[None]]":
        """Start to unload the models, cancel loading, and return at once.

        :returns: futures that are done after unloading.
        """
        models = [*self._others.values(), self.main]
        self._others, self._serving = {}, {}
        return [done for model in models if (done := model.unload()) is not None]

    def close(self, timeout: float) -> bool:
        """Unload, and end the thread. Wait about ``timeout`` seconds at most, and return whether everything ended in time."""
        end = time.monotonic() + timeout
        late = concurrent.futures.wait(self.unload(), timeout).not_done
        return self.main.close(max(end - time.monotonic(), 0.0)) and not late
