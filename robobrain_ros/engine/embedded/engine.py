"""vLLM's AsyncLLM inside of this process: the model's own processes are its children."""

import asyncio
import json
import logging
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from robobrain_ros.bounds.control_tokens import reject_control_tokens, special_tokens_of
from robobrain_ros.engine import environment
from robobrain_ros.engine.base import (
    DEFAULT_CONTEXT,
    IMAGE_PLACEHOLDER,
    Constraint,
    EngineHealth,
    EngineInfo,
    Generation,
    LoadProgress,
    ProgressCallback,
    TextDelta,
)
from robobrain_ros.engine.embedded import compat, leftovers, space, worker
from robobrain_ros.engine.embedded.checkpoint import Checkpoint, find_checkpoint
from robobrain_ros.engine.embedded.checkpoint_files import check_files
from robobrain_ros.engine.embedded.start_errors import explain_start_error, is_known
from robobrain_ros.engine.embedded.vitals import Vitals
from robobrain_ros.engine.flagos import choice as flagos
from robobrain_ros.engine.flagos.ledger import Failure
from robobrain_ros.engine.options import EngineOptions, refuse_unknown
from robobrain_ros.errors import BadImageError, BadRequestError, EngineConfigError, EngineFailedError

_FIRST_IMAGE, _FIRST_TOKENS = 448, 16
"""Side of the images, in pixels, and most tokens of the answers with which FlagGems' operators are tried after loading."""
_FIRST_FORMS = (None, Constraint(regex=r"\[\[[0-9]{1,3}, [0-9]{1,3}\]\]"))
"""What these answers are held to: nothing, and a form. An operator that lets a forbidden token through breaks only the second."""
_BROKE_OFF = "the first answers broke off with it"
_PROGRESS_INTERVAL = 2.0
_BREAK_OFF = 4.0
"""Seconds that cancelling a start may take. Importing vLLM takes longer on a slow machine; the node does not wait for it."""
_KILL_AFTER = 1.5
"""Seconds of `_BREAK_OFF` after which processes are killed, because vLLM's process may ignore a signal while it loads."""
_RPC_TIMEOUT = 60.0
"""Seconds that the workers may take to answer a call."""
_MIB = 1 << 20
_BYTES_PER_PIXEL = 24
"""Of a prepared image: three colours in float32, each pixel twice, since the encoder takes pairs of video frames."""
_SETTLED = 10
"""Number of answers after which vLLM no longer compiles, so that CPU time no longer counts as work beside a GPU."""
_IMAGE_THREADS = 4
"""Beside an H100, an image of 1280x720 was prepared in 18 ms with four, and in 30 to 44 with one."""
_COMPILATION = "compilation_config"
_LOGGING_VARIABLE = "VLLM_LOGGING_CONFIG_PATH"
_SOCKETS_VARIABLE = "VLLM_RPC_BASE_PATH"
_HIDDEN_WARNINGS = "ignore::FutureWarning,ignore:resource_tracker:UserWarning"
"""The second one: that a process that was killed has left shared memory. `leftovers` removes it."""
_LOG_FORMAT = "%(levelname)s [%(process)d] %(message)s"
_VLLM_LOG = logging.getLogger("vllm")
_GRAMMAR_WORDS = ("grammar", "schema", "regex", "Unimplemented keys")
"""One of them stands in whatever vLLM says against a constraint."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """A generation as `EmbeddedEngine.write` measures it.

    :param tokens: their ids; ``probabilities``, their log-probabilities where they were asked for.
    :param prefill: seconds to the first token; ``total``, to the last.
    :param broken: it was broken off, as a token came that the form did not allow.
    :param prepared: of ``prefill``, the seconds that vLLM needed in this process, for tokens and patches.
    :param computed: of ``prefill``, the seconds that the engine's own process needed, from when it took the request up.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    prefill: float
    total: float
    broken: bool = False
    prepared: float = 0.0
    computed: float = 0.0

    @property
    def decode(self) -> float:
        """Seconds from the first token to the last."""
        return self.total - self.prefill


class EmbeddedEngine:
    """An `engine.base.Engine` on vLLM in this process.

    One instance can be started again after `close`, also after its processes died.

    :param choice: what to do with FlagGems; None: as the options say.
    """

    def __init__(self, options: EngineOptions, choice: flagos.Choice | None = None) -> None:
        self.options = options
        self._given_choice = choice
        self._engine: Any = None
        self._tokenizer: Any = None
        self._special_tokens: frozenset[str] = frozenset()
        self._checkpoint: Checkpoint | None = None
        self._health = EngineHealth("stopped", "The engine is not started.")
        self._running: set[str] = set()
        self._workers: flagos.Workers | None = None
        self._answers = 0
        """How many generations have ended."""
        self._folder: leftovers.RunFolder | None = None
        self._vitals: Vitals | None = None

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """See `Engine.start`. The loop goes on with other work meanwhile."""
        self._health = EngineHealth("loading", "The engine is starting.")
        try:
            info = await self._start(progress)
        except BaseException as error:
            self._health = EngineHealth("failed", str(error) or "Starting the engine was broken off.")
            self._release_folder()
            raise
        self._health = EngineHealth("ready", f"{info.model} is ready.")
        return info

    async def _start(self, progress: ProgressCallback) -> EngineInfo:
        self.options.validate()
        compat.quieten_tasks(asyncio.get_running_loop())
        progress(LoadProgress("checking", "Checking vLLM and the checkpoint."))
        version = await asyncio.to_thread(compat.check_vllm)
        environment.go_online()
        checkpoint = await asyncio.to_thread(find_checkpoint, self.options, progress)
        await asyncio.to_thread(check_files, checkpoint.path, weights_needed=self.options.load_format != "dummy")
        flagos.check_names(self.options)
        self._folder = await asyncio.to_thread(_make_folder)
        while not await self._try_to_start(checkpoint, progress):
            pass  # Without what has failed of FlagGems; `flagos.choose` knows an end.
        self._watch_vitals()
        return self._describe(version)

    def _watch_vitals(self) -> None:
        assert self._folder is not None
        engine, workers = self._engine, self._workers

        def works_on_cpu() -> bool:
            compiles = self._answers < _SETTLED or (workers is not None and workers.flagos_active)
            return compiles or compat.on_cpu()

        pids = [process.pid for process in self._folder.processes]
        self._vitals = Vitals(pids, lambda: compat.reply(engine), lambda: len(self._running), works_on_cpu=works_on_cpu)
        self._vitals.start()

    async def _try_to_start(self, checkpoint: Checkpoint, progress: ProgressCallback) -> bool:
        """Start; false: FlagGems was the obstacle, and another try leaves out what has failed of it."""
        if self._folder is None:  # The try before has closed it.
            self._folder = await asyncio.to_thread(_make_folder)
        try:
            log = _ChildLog.create(self.options.log_level, self._folder.path)
        except OSError as error:
            raise _no_temporary_files(error) from error
        try:
            # `flagos.choose` may import vLLM, which reads its settings then.
            _set_environment(self.options, checkpoint, log)
            environment.put({_SOCKETS_VARIABLE: self._folder.socket_folder})
            choice = await asyncio.to_thread(self._choose, checkpoint)
            return await self._start_with(choice, checkpoint, log, progress)
        finally:
            log.release()
            # vLLM has read it; a program started from here later would take it for its user's, and the folder may be gone then.
            environment.put({_SOCKETS_VARIABLE: None})

    async def _start_with(
        self, choice: flagos.Choice, checkpoint: Checkpoint, log: "_ChildLog", progress: ProgressCallback
    ) -> bool:
        """Start with these of FlagGems' operators; false: as `_try_to_start`."""
        self._workers = workers = flagos.Workers(choice, self.options)
        ticker = _Ticker(progress, checkpoint, with_flagos=choice.active)
        ticker.start()
        try:
            await self._build(checkpoint, workers)
            self._checkpoint = checkpoint
            if workers.deferred:
                await self._call_workers("flagos_begin")
            if choice.by_platform:
                names = await self._call_workers("flagos_registered")
                workers.registered = tuple(sorted(set().union(*names)))
            if workers.flagos_active:
                await asyncio.wait_for(self._first_steps(), self.options.start_timeout)
            return True
        except EngineConfigError:
            raise
        except Exception as error:
            failure = await self._what_failed(workers)
            if failure is None or self._given_choice is not None or (is_known(error, log.read()) and not failure.operator):
                raise explain_start_error(error, log.read(), self.options, choice.platform) from error
            flagos.remember(self.options.model, failure)
            await self.close()
            self._health = EngineHealth("loading", "The engine is built again without what failed of FlagGems.")
            return False
        finally:
            ticker.stop()
            if self._engine is None:
                workers.release()

    def _choose(self, checkpoint: Checkpoint) -> flagos.Choice:
        """What to do with FlagGems."""
        if self._given_choice is not None:
            return flagos.on_platform(self._given_choice, self.options)
        return flagos.choose(self.options, checkpoint)

    async def _first_steps(self) -> None:
        """Prefill with an image, and a few steps: an operator that fails shows now, not in the first request.

        :raises EngineFailedError: an answer could not be written.
        """
        assert self._checkpoint is not None
        side = _FIRST_IMAGE // (self._checkpoint.cell or 1) * (self._checkpoint.cell or 1)
        for form in _FIRST_FORMS:
            # New each time: what a cache knows, no operator computes.
            image = np.random.default_rng().integers(0, 256, (side, side, 3), np.uint8)
            name = f"flagos-{uuid.uuid4().hex}"
            generation = Generation(name, "What is in the image?", [image], _FIRST_TOKENS, constraint=form)
            # Not asked for twice, as requests are: an operator that is wrong now and then would get away with it.
            async with aclosing(self._stream(self._engine, generation, name)) as stream:
                async for delta in stream:
                    if delta.finish_reason == "error":
                        raise EngineFailedError("One of the first answers broke off.")

    async def _what_failed(self, workers: flagos.Workers) -> Failure | None:
        """What of FlagGems is to be left out after a start that failed; None: it was not in it."""
        failure = workers.failure("it did not start" if self._engine is None else "its first steps ended it")
        if failure is None or failure.operator or not workers.active or self._engine is None or self._engine.errored:
            return failure
        # The engine lives, so that it can be tried which operator it is.
        try:
            operator = await asyncio.wait_for(flagos.find_culprit(workers.called, self._fail_with), self.options.start_timeout)
        except (EngineFailedError, asyncio.TimeoutError):
            return workers.failure("its first steps ended it")
        return Failure(operator, _BROKE_OFF)

    async def _fail_with(self, names: Sequence[str]) -> bool:
        """Whether the first steps fail with these operators, and no others.

        :raises EngineFailedError: the engine has died of it.
        """
        await self.use_flagos(names)
        try:
            await self._first_steps()
        except EngineFailedError:
            return True
        return False

    async def _build(self, checkpoint: Checkpoint, workers: flagos.Workers) -> None:
        """Build vLLM's engine in another thread: it takes many seconds, and the loop has requests to refuse meanwhile."""
        # The thread puts the engine into a list rather than returning it: a thread's result lives on in places that only the
        # interpreter's end clears, and an engine that is deleted then writes a traceback.
        built: list[Any] = []
        broken_off = threading.Event()
        others = multiprocessing.active_children()

        def build() -> None:
            built.append(_build_engine(self.options, checkpoint, workers, broken_off))

        building = asyncio.ensure_future(asyncio.to_thread(build))
        recording = asyncio.create_task(self._keep_record(others))
        try:
            await asyncio.wait_for(asyncio.shield(building), self.options.start_timeout)
            self._engine = built.pop()
        except (asyncio.CancelledError, asyncio.TimeoutError) as error:
            broken_off.set()
            await _break_off(building, others)
            building.add_done_callback(partial(_shut_down_late, built))
            if isinstance(error, asyncio.TimeoutError):
                raise EngineConfigError(
                    f"The engine did not start within engine.start_timeout = {self.options.start_timeout:.0f} s."
                ) from error
            raise
        finally:
            recording.cancel()
        await asyncio.to_thread(self._record, others)
        if self.options.nnodes > 1:
            where = self.options.master_addr, self.options.master_port
            await self._engine.collective_rpc("watch_first_machine", timeout=_RPC_TIMEOUT, args=where)
        self._tokenizer = await asyncio.to_thread(_load_tokenizer, checkpoint, self.options)
        self._special_tokens = special_tokens_of(self._tokenizer)

    async def _keep_record(self, others: Sequence[BaseProcess]) -> None:
        while True:
            await asyncio.to_thread(self._record, others)
            await asyncio.sleep(_PROGRESS_INTERVAL)

    def _record(self, others: Sequence[BaseProcess]) -> None:
        """Note which processes are of this engine.

        :param others: child processes that are not.
        """
        if self._folder is not None:
            mine = [process.pid for process in multiprocessing.active_children() if process not in others]
            self._folder.record(pid for pid in mine if pid is not None)

    def _describe(self, version: str) -> EngineInfo:
        from vllm.platforms import current_platform

        assert self._checkpoint is not None
        assert self._workers is not None
        return EngineInfo(
            model=self.options.model,
            model_type=self._checkpoint.model_type,
            engine=f"vllm {version} ({current_platform.device_name})",
            max_model_len=self._engine.vllm_config.model_config.max_model_len,
            min_pixels=self._checkpoint.min_pixels,
            max_pixels=self._checkpoint.max_pixels,
            cell=self._checkpoint.cell,
            flagos_active=self._workers.flagos_active,
            special_tokens=self._special_tokens,
            details={**self._workers.details(), "image_cache": f"at most {_image_cache_mib(self.options)} MiB a process"},
            count_tokens=self._count_tokens,
        )

    def _count_tokens(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def vllm(self) -> Any:
        """vLLM's own engine, for who serves it to others; None while there is none."""
        return self._engine

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """See `Engine.generate`."""
        engine = self._engine
        if engine is None:
            raise EngineFailedError("The engine is not started.")
        self._running.add(generation.request_id)
        try:
            async with aclosing(self._attempts(engine, generation)) as stream:
                async for delta in stream:
                    yield delta
        except compat.dead_error() as error:
            self._note_death()
            raise EngineFailedError(f"{self._health.message} It restarts. Ask again when the node is ready.") from error
        except compat.request_errors() as error:
            raise _refusal(error, generation) from error
        finally:
            self._running.discard(generation.request_id)
            self._answers += 1

    def _note_death(self) -> None:
        """The engine's process has died; where FlagGems did it, the next engine does without what failed."""
        failed_before = self._health.state == "failed"
        self._health = EngineHealth("failed", _death())
        if failed_before or self._workers is None or self._given_choice is not None:
            return
        failure = self._workers.failure("its process died")
        if failure is not None and (failure.operator or self._answers < flagos.FIRST_ANSWERS):
            flagos.remember(self.options.model, failure)

    async def _attempts(self, engine: Any, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """Stream; once more after a finish with "error", which a poisoned image cache gives before any text."""
        for attempt in ("first", "second"):
            request_id = generation.request_id if attempt == "first" else f"{generation.request_id}-again"
            failed = False
            async with aclosing(self._stream(engine, generation, request_id)) as stream:
                async for delta in stream:
                    failed = delta.finish_reason == "error"
                    if failed:
                        break
                    yield delta
            if not failed:
                return
            await engine.reset_mm_cache()
        self._suspect_flagos()
        raise EngineFailedError("The engine could not answer this request, twice; the log of vLLM says why.")

    def _suspect_flagos(self) -> None:
        """A request could not be answered by an engine that goes on: where FlagGems is in it, the next engine does without."""
        workers = self._workers
        if self._health.state != "ready" or workers is None or not workers.flagos_active or self._given_choice is not None:
            return
        flagos.remember(self.options.model, Failure("", "it could not answer a request"))
        self._health = EngineHealth("failed", "The engine could not answer a request with FlagGems' operators.")

    async def _stream(self, engine: Any, generation: Generation, request_id: str) -> AsyncGenerator[TextDelta, None]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            max_tokens=generation.max_tokens,
            temperature=generation.temperature,
            stop=list(generation.stop),
            structured_outputs=compat.structured_outputs(generation.constraint),
            seed=self.options.seed if generation.temperature > 0 else None,
            output_kind=RequestOutputKind.DELTA,
        )
        prepared = await compat.prepare(engine, self._prompt(generation))
        outputs = engine.generate(prepared, parameters, request_id, priority=generation.priority)
        async with aclosing(outputs):
            async for output in outputs:
                if self._vitals is not None:
                    self._vitals.note_output()
                yield _to_delta(output)

    def _prompt(self, generation: Generation) -> dict[str, Any]:
        assert self._checkpoint is not None
        reject_control_tokens("The prompt", generation.user_text, self._special_tokens)
        _check_images(generation, self._checkpoint)
        content = [{"type": "image"} for _ in generation.images] + [{"type": "text", "text": generation.user_text}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        # vLLM takes a placeholder without an image, and an image without a placeholder, silently.
        found = text.count(IMAGE_PLACEHOLDER)
        if found != len(generation.images):
            raise BadRequestError(
                f"The prompt has {found} places for {len(generation.images)} images; the question must not hold model tokens "
                f"such as {IMAGE_PLACEHOLDER}."
            )
        prompt: dict[str, Any] = {"prompt": text + generation.assistant_prefix}
        if generation.images:
            prompt["multi_modal_data"] = {"image": list(generation.images)}
            prompt.update(compat.image_names(generation))
        return prompt

    async def write(self, generation: Generation, probabilities: bool = False) -> Written:
        """Write exactly ``max_tokens`` tokens, or at most so many where a form is to be kept, greedily, and take the time; for
        comparing operators.

        :raises EngineFailedError: the engine has died of it.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            max_tokens=generation.max_tokens,
            temperature=0.0,
            ignore_eos=generation.constraint is None,
            structured_outputs=compat.structured_outputs(generation.constraint),
            logprobs=0 if probabilities else None,
            output_kind=RequestOutputKind.DELTA,
        )
        tokens: list[int] = []
        logarithms: list[float] = []
        began = time.monotonic()
        first, ready, computed, broken = 0.0, 0.0, 0.0, False
        try:
            prepared = await compat.prepare(self._engine, self._prompt(generation))
            ready = time.monotonic() - began
            async with aclosing(self._engine.generate(prepared, parameters, generation.request_id)) as outputs:
                async for output in outputs:
                    first = first or time.monotonic() - began
                    if output.metrics is not None:
                        computed = output.metrics.first_token_ts - output.metrics.scheduled_ts
                    (completion,) = output.outputs
                    tokens += completion.token_ids
                    broken = completion.finish_reason == "error"
                    for token, entry in zip(completion.token_ids, completion.logprobs or (), strict=False):
                        logarithms.append(entry[token].logprob)
        except compat.dead_error() as error:
            self._note_death()
            raise EngineFailedError("The engine's process has died.") from error
        total = time.monotonic() - began
        return Written(tuple(tokens), tuple(logarithms), first, total, broken, ready, computed)

    async def use_flagos(self, names: Sequence[str]) -> None:
        """Use these operators of FlagGems and no others, and count calls anew.

        :raises EngineFailedError: the engine has died.
        """
        await self._call_workers("flagos_use", list(names))

    async def _call_workers(self, method: str, *arguments: Any) -> list[Any]:
        """What each worker gives back.

        :raises EngineFailedError: the engine has died.
        """
        try:
            answers: list[Any] = await self._engine.collective_rpc(method, timeout=_RPC_TIMEOUT, args=arguments)
            return answers
        except compat.dead_error() as error:
            if self._health.state == "ready":  # Who starts it finds out by itself what has failed.
                self._note_death()
            raise EngineFailedError("The engine's process has died.") from error

    @property
    def flagos_failure(self) -> Failure | None:
        """Which operator of FlagGems has failed in a dead engine; None: FlagGems was not in it."""
        return None if self._workers is None else self._workers.failure("its process died")

    async def abort(self, request_id: str) -> None:
        """See `Engine.abort`."""
        if self._engine is not None:
            await self._engine.abort(request_id)

    def health(self) -> EngineHealth:
        """See `Engine.health`."""
        health = self._health
        if health.state == "ready" and self._engine is not None and self._engine.errored:
            health = EngineHealth("failed", _death())
        stall, limit = self._stall(), self.options.stall_timeout
        if stall and health.state == "ready" and self._vitals is not None and 0 < limit <= self._vitals.stalled_for:
            health = EngineHealth("failed", stall)
        workers = self._workers
        if workers is None or health.state != "ready":
            return EngineHealth(health.state, health.message, running=len(self._running))
        return EngineHealth(
            health.state,
            health.message,
            running=len(self._running),
            warning=" ".join(text for text in (stall, workers.warning) if text),
            flagos_active=workers.flagos_active,
            flagos_operators=workers.called,
        )

    def _stall(self) -> str:
        """A sentence where the engine has stalled; empty: it works."""
        vitals = self._vitals
        if vitals is None or not vitals.reason:
            return ""
        limit = self.options.stall_timeout
        follows = f"The node restarts it after {limit:.0f} s (engine.stall_timeout)."
        if not limit:
            follows = "Continue the process, or restart the node: engine.stall_timeout is 0."
        return f"The engine has not worked for {vitals.stalled_for:.0f} s: {vitals.reason}. {follows}"

    async def close(self) -> None:
        """See `Engine.close`."""
        engine, self._engine = self._engine, None
        vitals, self._vitals = self._vitals, None
        self._health = EngineHealth("stopped", "The engine is closed.")
        if vitals is not None:
            await vitals.close()
            if vitals.reason and self._folder is not None:
                self._folder.kill()  # A stopped process ignores SIGTERM.
        if engine is not None:
            await compat.stop_listening(engine)
            await asyncio.to_thread(compat.shut_down, engine)
        if self._workers is not None:
            self._workers.release()
        self._release_folder()

    def _release_folder(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.release()


def _build_engine(
    options: EngineOptions,
    checkpoint: Checkpoint,
    workers: flagos.Workers,
    broken_off: threading.Event,
) -> Any:
    environment.put(workers.environment())
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.async_llm import AsyncLLM

    device = str(current_platform.device_type)
    if device != "cpu":
        _check_device_count(options)
        environment.put({"OMP_NUM_THREADS": str(_threads_for_images())})
    extra = options.extra_arguments()
    refuse_unknown(extra, {item.name for item in fields(AsyncEngineArgs)})
    arguments = _with_extra(_engine_arguments(options, checkpoint, device, workers.choice), extra)
    if options.nnodes > 1:
        _tell_how_to_join(options, arguments)
    compat.quieten_deaths()
    engine_arguments = AsyncEngineArgs(**arguments)
    if broken_off.is_set():  # While vLLM was imported, which takes long enough.
        raise EngineFailedError("Starting the engine was broken off.")
    return AsyncLLM.from_engine_args(engine_arguments)


def _make_folder() -> leftovers.RunFolder:
    """The folder of an engine, after what dead engines have left was removed.

    :raises EngineConfigError: there is no room for it.
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


def _no_temporary_files(error: OSError) -> EngineConfigError:
    return EngineConfigError(
        f"No folder for temporary files is writable ({error.strerror or error}): free some space, or name another folder in "
        "the environment variable TMPDIR."
    )


def _death() -> str:
    """A sentence that the engine's process has died, with the reason where it is known."""
    return " ".join(text for text in ("The engine's process has died.", space.shortage()) if text)


def _image_cache_mib(options: EngineOptions) -> int:
    """What vLLM may keep of prepared images, in each process. The largest image must fit: older versions refuse it otherwise."""
    largest = options.max_pixels * _BYTES_PER_PIXEL
    return max(options.image_cache_mib, -(-largest // _MIB) + 1) if options.image_cache_mib else 0


def _tell_how_to_join(options: EngineOptions, arguments: dict[str, Any]) -> None:
    # A folder is named as it is here, and a model of the hub by its name: the other machines have caches of their own.
    model = arguments["model"] if Path(options.model).expanduser().is_dir() else options.model
    for rank in range(1, options.nnodes):
        command = shlex.join(compat.join_command(arguments | {"model": model}, rank))
        _log.warning("Waiting for machine %d of %d. On it, with this package installed: %s", rank + 1, options.nnodes, command)


def _threads_for_images() -> int:
    """Threads that prepare an image for the encoder; vLLM takes a single one unless it is told, and one image at a time."""
    return min(_IMAGE_THREADS, max(1, len(os.sched_getaffinity(0)) // 2))


def _with_extra(arguments: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Arguments of vLLM's, and those of ``engine.extra`` above them; what that does not say of compilation stays as it is."""
    ours, theirs = arguments.get(_COMPILATION), extra.get(_COMPILATION)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        extra = extra | {_COMPILATION: ours | theirs}
    return arguments | extra


def _engine_arguments(
    options: EngineOptions, checkpoint: Checkpoint, device: str, choice: flagos.Choice = flagos.NATIVE
) -> dict[str, Any]:
    """Arguments of vLLM's engine.

    :param device: vLLM's word for the kind of device, such as "cpu" and "cuda".
    """
    on_cpu = device == "cpu"
    own_extension = f"{worker.__name__}.{worker.OwnerWatch.__name__}"
    longest = min(options.max_model_len or DEFAULT_CONTEXT, checkpoint.max_positions or DEFAULT_CONTEXT)
    max_pixels = min(options.max_pixels, checkpoint.max_pixels or options.max_pixels)
    arguments: dict[str, Any] = {
        "model": str(checkpoint.path),
        "served_model_name": options.model,
        "dtype": checkpoint.dtype if options.dtype == "auto" and checkpoint.dtype == "float32" else options.dtype,
        "max_model_len": options.max_model_len or longest,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "data_parallel_size": options.data_parallel_size,
        "quantization": options.quantization or None,
        "enforce_eager": options.enforce_eager or on_cpu or (choice.active and not choice.graphs),
        "max_num_seqs": options.max_num_seqs,
        "load_format": options.load_format,
        "seed": options.seed,
        "trust_remote_code": options.trust_remote_code,
        "mm_processor_cache_gb": _image_cache_mib(options) / 1024,
        "limit_mm_per_prompt": {"image": options.max_images, "video": 0},
        # Memory is set aside for the largest image that can come, so vLLM is told how large ours are.
        "mm_processor_kwargs": {"max_pixels": max(max_pixels, checkpoint.min_pixels)},
        # The checkpoint's own sampling would otherwise override greedy decoding's defaults.
        "generation_config": "vllm",
        "scheduling_policy": "priority",
        "structured_outputs_config": compat.STRUCTURED_OUTPUTS_CONFIG,
        "use_tqdm_on_load": not options.quiet,
        "worker_extension_cls": flagos.WORKER_EXTENSION if choice.with_flagos else own_extension,
    }
    if on_cpu:
        arguments |= compat.cpu_arguments(checkpoint.model_type)
    else:
        arguments["gpu_memory_utilization"] = options.gpu_memory_utilization
    if device == "cuda" and not arguments["enforce_eager"] and not choice.platform:
        # The image encoder is no part of what vLLM compiles by itself. Operator by operator it took 80 of the 112 ms that an
        # H100 needed for an image with the 7B, compiled 31 of 63.
        arguments[_COMPILATION] = {"compile_mm_encoder": True}
    if options.distributed_executor_backend:
        arguments["distributed_executor_backend"] = options.distributed_executor_backend
    if options.nnodes > 1:
        arguments |= {"nnodes": options.nnodes, "master_addr": options.master_addr, "master_port": options.master_port}
    return arguments


def _set_environment(options: EngineOptions, checkpoint: Checkpoint, log: "_ChildLog") -> None:
    """Settings that vLLM and its processes read from the environment; what the user has set stays."""
    os.environ[worker.OWNER_VARIABLE] = worker.owner_name()
    values = {
        _LOGGING_VARIABLE: str(log.configuration),
        # A forked child of a process with threads, ROS's for example, may hang.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(options.cpu_memory_gib),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if options.quiet:
        # What libraries tell their developers; the user can do nothing about it.
        values |= {"PYTHONWARNINGS": _HIDDEN_WARNINGS, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|torch|vllm)\.")
    environment.put(values)
    if checkpoint.local:
        environment.go_offline()


def _check_device_count(options: EngineOptions) -> None:
    import torch

    if options.distributed_executor_backend == "ray":
        return  # The cluster has more than this machine.
    wanted = options.gpus // options.nnodes
    present = torch.accelerator.device_count()
    if wanted > present:
        shared = f" / nnodes = {options.nnodes}" if options.nnodes > 1 else ""
        raise EngineConfigError(
            f"tensor_parallel_size x pipeline_parallel_size x data_parallel_size{shared} = {wanted} GPUs are asked for, but this "
            f"machine has {present}; lower engine.tensor_parallel_size."
        )


def _load_tokenizer(checkpoint: Checkpoint, options: EngineOptions) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=options.trust_remote_code)
    if not tokenizer.chat_template:
        raise EngineConfigError(f"The checkpoint in {checkpoint.path} has no chat template (chat_template.jinja); copy its own.")
    return tokenizer


def _check_images(generation: Generation, checkpoint: Checkpoint) -> None:
    """An image off the model's grid would be resized again, and coordinates would refer to another image than ours; one of
    a few pixels would even end the engine."""
    for image in generation.images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype.name != "uint8":
            raise BadImageError(f"The engine takes images of shape (height, width, 3) and type uint8, not {image.shape}.")
        height, width = image.shape[:2]
        cell = checkpoint.cell or 1
        if min(height, width) < cell or height % cell or width % cell:
            raise BadImageError(f"The engine takes images whose sides are multiples of {cell}, not {width}x{height}.")


async def _break_off(building: "asyncio.Future[None]", others: Sequence[BaseProcess]) -> None:
    """End a thread that builds an engine, which nothing can stop from outside: without the processes that it starts and waits
    for, it gives up. Otherwise the next engine would share the GPU with this one.

    :param others: processes that are not of this engine.
    """
    ending = asyncio.create_task(_end_children(building, others), name="engine-break-off")
    building.add_done_callback(lambda _: ending.done())  # Holds the task until then.
    await asyncio.wait({building}, timeout=_BREAK_OFF)


async def _end_children(building: "asyncio.Future[None]", others: Sequence[BaseProcess]) -> None:
    began = time.monotonic()
    while not building.done():
        for process in multiprocessing.active_children():
            if process in others:
                continue
            if time.monotonic() - began < _KILL_AFTER:
                process.terminate()
            else:
                process.kill()
        await asyncio.wait({building}, timeout=0.2)


def _shut_down_late(built: list[Any], building: "asyncio.Future[None]") -> None:
    """Give back what was built too late."""
    if not building.cancelled() and building.exception() is None:
        threading.Thread(target=compat.shut_down, args=(built.pop(),), name="engine-shutdown").start()


def _to_delta(output: Any) -> TextDelta:
    completion = output.outputs[0]
    metrics = output.metrics
    queued = metrics.scheduled_ts - metrics.queued_ts if metrics is not None and metrics.scheduled_ts else 0.0
    return TextDelta(
        text=completion.text,
        tokens=len(completion.token_ids),
        prompt_tokens=len(output.prompt_token_ids or ()),
        queue_time=max(queued, 0.0),
        finish_reason=completion.finish_reason or "",
    )


def _refusal(error: BaseException, generation: Generation) -> Exception:
    """What vLLM says about a request that it refuses, as one of our errors. The reason may be in the cause."""
    reasons = [str(part).strip() for part in (error, error.__cause__) if part is not None]
    reason = next((part for part in reasons if part), type(error).__name__).splitlines()[0]
    if "aspect ratio" in reason or "height and width" in reason:
        return BadImageError(f"The model's image processor refuses the image: {reason}.")
    if generation.constraint is not None and any(word in reason for word in _GRAMMAR_WORDS):
        return BadRequestError(f"The engine cannot hold the model to the form asked for: {reason}")
    return BadRequestError(f"The engine refuses the request: {reason} Shorten it, or raise engine.max_model_len.")


class _Ticker(threading.Thread):
    """Says every few seconds that the engine is still starting: loading a model takes minutes."""

    def __init__(self, progress: ProgressCallback, checkpoint: Checkpoint, *, with_flagos: bool = False) -> None:
        super().__init__(name="engine-progress", daemon=True)
        self._progress = progress
        self._more = "; FlagGems compiles its operators, the first time for minutes" if with_flagos else ""
        self._size = f" ({checkpoint.gigabytes:.1f} GB of weights)" if checkpoint.gigabytes >= 0.1 else ""
        self._done = threading.Event()

    def run(self) -> None:
        """Tell the progress until stopped."""
        began = time.monotonic()
        while True:
            seconds = time.monotonic() - began
            message = f"Starting the engine's processes and loading the model{self._size}{self._more}, {seconds:.0f} s."
            self._progress(LoadProgress("loading", message))
            if self._done.wait(_PROGRESS_INTERVAL):
                return

    def stop(self) -> None:
        """Stop telling; returns when nothing more is told."""
        self._done.set()
        self.join(timeout=5.0)


class _ChildLog:
    """vLLM's log while it starts. It writes into a file, here and in its processes: why one failed is said nowhere else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.configuration = folder / "logging.json"
        self._file = folder / "vllm.log"

    @classmethod
    def create(cls, level: str, folder: Path | None = None) -> "_ChildLog":
        log = cls(Path(tempfile.mkdtemp(prefix="robobrain_ros-log-", dir=folder)))
        line = {"format": _LOG_FORMAT}
        handlers = {
            "file": {"class": "logging.FileHandler", "filename": str(log._file), "formatter": "line", "level": "INFO"},
            "console": {"class": "logging.StreamHandler", "formatter": "line", "level": level.upper()},
        }
        loggers = {"vllm": {"handlers": ["file", "console"], "level": "INFO", "propagate": False}}
        configuration = {"version": 1, "disable_existing_loggers": False, "formatters": {"line": line}}
        log.configuration.write_text(json.dumps(configuration | {"handlers": handlers, "loggers": loggers}), encoding="utf-8")
        if "vllm" in sys.modules:
            log._follow_this_process()
        return log

    def _follow_this_process(self) -> None:
        """vLLM has read its configuration when it was imported: what it says in this process would go to that engine's file."""
        handler = logging.FileHandler(self._file)
        handler.setFormatter(logging.Formatter(_LOG_FORMAT))
        _VLLM_LOG.addHandler(handler)

    def read(self) -> str:
        """All that was written so far."""
        try:
            return self._file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def release(self) -> None:
        """Remove the files, into which this process writes no more; what vLLM's other processes hold open they go on writing."""
        if os.environ.get(_LOGGING_VARIABLE) == str(self.configuration):
            del os.environ[_LOGGING_VARIABLE]
        for handler in tuple(_VLLM_LOG.handlers):
            if isinstance(handler, logging.FileHandler) and handler.baseFilename == str(self._file):
                _VLLM_LOG.removeHandler(handler)
                with suppress(OSError):  # A full disk.
                    handler.close()
        shutil.rmtree(self._folder, ignore_errors=True)
