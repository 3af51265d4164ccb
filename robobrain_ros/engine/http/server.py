"""vLLM's own OpenAI-compatible HTTP server on the node's engine. Requests of the robot have priority over HTTP requests."""

import asyncio
import inspect
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from robobrain_ros.engine.base import EngineHealth, EngineInfo, Generation, ProgressCallback, TextDelta
from robobrain_ros.engine.embedded import compat
from robobrain_ros.engine.embedded.engine import EmbeddedEngine
from robobrain_ros.engine.http.front import HttpFront
from robobrain_ros.engine.http.requests import RequestLimits
from robobrain_ros.engine.http.schemas import check_structured_outputs
from robobrain_ros.engine.presets import checkpoint_name, served_names

HTTP_PRIORITY = 1_000_000
"""Priority of all HTTP requests. The robot's own requests have a value of 0 or 1, which means a higher priority."""

_GOODBYE = 3.0

_log = logging.getLogger(__name__)


class ServedEngine:
    """An embedded engine that also serves HTTP clients while it runs.

    :param front: the port. It exists longer than the engine, and its creator closes it.
    """

    def __init__(self, inner: EmbeddedEngine, front: HttpFront) -> None:
        self.front = front
        self._inner = inner
        self._task: asyncio.Task[None] | None = None

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """See `Engine.start`."""
        self.front.open()
        info = await self._inner.start(progress)
        self._task = asyncio.create_task(self._serve(info.model), name="http-application")
        return info

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """See `Engine.generate`."""
        async with aclosing(self._inner.generate(generation)) as stream:
            async for delta in stream:
                yield delta

    async def abort(self, request_id: str) -> None:
        """See `Engine.abort`."""
        await self._inner.abort(request_id)

    def health(self) -> EngineHealth:
        """See `Engine.health`."""
        return self._inner.health()

    async def close(self) -> None:
        """See `Engine.close`. HTTP requests in progress are aborted."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=_GOODBYE)
        self.front.suspend("The engine has stopped; it restarts, or the node shuts down.")
        await self._inner.close()

    async def _serve(self, model: str) -> None:
        options = self.front.options
        try:
            engine = self._wrapped()
            names = list(dict.fromkeys([public_name(model), *(options.model_names or served_names(model))]))
            app = await compat.build_http_app(engine, str(engine.model_config.model), names)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _log.exception("The HTTP server failed. The node continues without it.")
            self.front.suspend(f"The HTTP server failed ({type(error).__name__}: {error}). The log has the traceback.")
            return
        limits = RequestLimits(
            max_model_len=int(engine.model_config.max_model_len),
            max_answers=options.max_requests,
            max_images=self._inner.options.max_images,
            max_pixels=options.max_image_pixels,
            max_body=options.max_body_mib << 20,
            names=tuple(names),
            domains=options.allowed_media_domains,
        )
        self.front.serve(app, limits, self._fault)

    def _fault(self) -> str:
        health = self._inner.health()
        return "" if health.state == "ready" else health.message

    def _wrapped(self) -> Any:
        return _LowPriorityEngine(self._inner.vllm, self.front.options.max_requests)


class _LowPriorityEngine:
    """Wraps vLLM's engine for the HTTP server: sets a low priority, and limits the number of concurrent requests.

    One HTTP request can contain many requests for the engine (``n``, lists of prompts), so they are counted here. All constraints
    of all routes and fields are checked here.
    """

    def __init__(self, engine: Any, most: int) -> None:
        self._engine = engine
        self._most = most
        self._slots = asyncio.Semaphore(most)
        self._signature = inspect.signature(engine.generate)
        self._validated = compat.validated_constraints()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, *arguments: Any, **named: Any) -> AsyncGenerator[Any, None]:
        """See ``AsyncLLM.generate``. Sets the priority of HTTP requests.

        :raises ValueError: too many answers are requested, or a constraint exceeds a limit.
        """
        call = self._signature.bind(*arguments, **named)
        call.arguments["priority"] = HTTP_PRIORITY
        parameters = call.arguments.get("sampling_params")
        answers = getattr(parameters, "n", 1) or 1
        if answers > self._most:
            raise ValueError(f"n is {answers}; it must be at most {self._most}.")
        constraint = getattr(parameters, "structured_outputs", None)
        if constraint is not None:
            await asyncio.to_thread(check_structured_outputs, constraint)
            await asyncio.to_thread(self._validated.add, parameters)
        async with self._slots, aclosing(self._engine.generate(*call.args, **call.kwargs)) as outputs:
            async for output in outputs:
                yield output


def public_name(model: str) -> str:
    """Return the name of a model for clients: its name on the hub, that of its folder, or that of the demo model."""
    path = Path(model)
    if not os.path.isdir(path):  # Unlike Path.is_dir, false if the name cannot be read.
        return model
    return "tabletop-demo" if path.parts[-2:] == ("demo", "model") else checkpoint_name(model)
