"""The embedded engine: vLLM's AsyncLLM runs in this process, and the model in child processes."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from robobrain_ros.engine import environment
from robobrain_ros.engine.base import (
    CheckOrigin,
    EngineHealth,
    EngineInfo,
    Generation,
    LoadProgress,
    ModelOrigin,
    ProgressCallback,
    TextDelta,
)
from robobrain_ros.engine.embedded import compat, leftovers, measuring, operator_trial, space, starting
from robobrain_ros.engine.embedded.checkpoint import Checkpoint, find_checkpoint
from robobrain_ros.engine.embedded.checkpoint_files import check_files
from robobrain_ros.engine.embedded.child_log import ChildLog
from robobrain_ros.engine.embedded.generation import AnswerFailedError, VllmStream, as_rejection
from robobrain_ros.engine.embedded.operator_trial import OperatorTrial
from robobrain_ros.engine.embedded.prompt import Prompts
from robobrain_ros.engine.embedded.start_errors import explain_start_error, is_known
from robobrain_ros.engine.embedded.vitals import Vitals
from robobrain_ros.engine.flagos.choice import Choice, Operators
from robobrain_ros.engine.flagos.decision import check_names, choose
from robobrain_ros.engine.flagos.ledger import Failure
from robobrain_ros.engine.flagos.session import Session
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError, EngineFailedError

_SOCKETS_VARIABLE = "VLLM_RPC_BASE_PATH"
_COMPILED_AFTER = 10
"""After this number of answers, vLLM no longer compiles. From then on, CPU time is no sign that an engine on a GPU works."""


class EmbeddedEngine:
    """An `engine.base.Engine` on vLLM in this process.

    An instance can be started again after `close`, even if its processes died.

    :param choice: operators to use. None means those that the options select.
    :param check_origin: called with the checkpoint's name and folder before the checkpoint is loaded.
    """

    def __init__(self, options: EngineOptions, choice: Choice | None = None, check_origin: CheckOrigin | None = None) -> None:
        self.options, self._check_origin, self._given_choice = options, check_origin, choice
        self._vllm: Any = None
        self._prompts: Prompts | None = None
        self._health = EngineHealth("stopped", "The engine is not started.")
        self._running: set[str] = set()
        self._flagos: Session | None = None
        self._ended_generations = 0
        self._folder: leftovers.RunFolder | None = None
        self._vitals: Vitals | None = None

    async def start(self, progress: ProgressCallback) -> EngineInfo:
        """See `Engine.start`. The event loop is not blocked meanwhile."""
        self._health = EngineHealth("loading", "The engine is starting.")
        try:
            info = await self._start(progress)
        except BaseException as error:
            self._health = EngineHealth("failed", str(error) or "Starting the engine was cancelled.")
            self._release_folder()
            raise
        self._health = EngineHealth("ready", f"{info.model} is ready.")
        return info

    async def _start(self, progress: ProgressCallback) -> EngineInfo:
        self.options.validate()
        compat.silence_task_logs(asyncio.get_running_loop())
        progress(LoadProgress("checking", "Checking vLLM and the checkpoint."))
        version = await asyncio.to_thread(compat.check_vllm)
        environment.go_online()
        checkpoint = await asyncio.to_thread(find_checkpoint, self.options, progress, self._check_origin)
        await asyncio.to_thread(check_files, checkpoint.path, weights_needed=self.options.embedded.load_format != "dummy")
        check_names(self.options)
        self._folder = await asyncio.to_thread(starting.make_folder)
        while not await self._try_to_start(checkpoint, progress):
            pass  # The next attempt does not use the operators that failed. `choose` limits the number of attempts.
        vllm, pids = self._vllm, [process.pid for process in self._folder.processes]
        self._vitals = Vitals(pids, lambda: compat.reply(vllm), lambda: len(self._running), works_on_cpu=self._works_on_cpu)
        self._vitals.start()
        assert self._prompts is not None
        assert self._flagos is not None
        return _describe(self.options, self._vllm, version, self._prompts, self._flagos)

    def _works_on_cpu(self) -> bool:
        compiles = self._ended_generations < _COMPILED_AFTER or (self._flagos is not None and self._flagos.active)
        return compiles or compat.on_cpu()

    async def _try_to_start(self, checkpoint: Checkpoint, progress: ProgressCallback) -> bool:
        """Return False if operators of FlagOS failed. The next attempt does not use them."""
        if self._folder is None:  # The previous attempt has released it.
            self._folder = await asyncio.to_thread(starting.make_folder)
        log = await asyncio.to_thread(starting.open_log, self.options.embedded.log_level, self._folder)
        try:
            # `choose` can import vLLM, which then reads these variables.
            starting.set_environment(self.options, checkpoint, log)
            environment.set_variables({_SOCKETS_VARIABLE: self._folder.socket_folder})
            choice = await asyncio.to_thread(choose, self.options, checkpoint, self._given_choice)
            return await self._start_with(choice, checkpoint, log, progress)
        finally:
            log.release()
            # vLLM has read the variable. Later child processes must not inherit it, because the folder may not exist then.
            environment.set_variables({_SOCKETS_VARIABLE: None})

    async def _start_with(self, choice: Choice, checkpoint: Checkpoint, log: ChildLog, progress: ProgressCallback) -> bool:
        """Start with these operators. Return as `_try_to_start` does."""
        self._flagos = flagos = Session(choice, self.options, recovers=self._given_choice is None)
        folder, compiles = self._folder, choice.operators is Operators.OURS
        assert folder is not None
        reporter = starting.ProgressReporter(progress, checkpoint, lambda: folder.processes, with_flagos=compiles)
        reporter.start()
        try:
            await self._start_vllm(checkpoint, flagos)
            await self._begin_flagos(flagos)
            return True
        except EngineConfigError:
            raise
        except Exception as error:
            failure = await self._find_failure(flagos)
            if failure is None or not flagos.recovers or (is_known(error, log.read()) and not failure.operator):
                raise explain_start_error(error, log.read(), self.options, choice.platform) from error
            flagos.note_failed_start(failure)
            await self.close()
            self._health = EngineHealth("loading", "The engine restarts without the operators of FlagOS that failed.")
            return False
        finally:
            reporter.stop()
            if self._vllm is None:
                flagos.release()

    async def _start_vllm(self, checkpoint: Checkpoint, flagos: Session) -> None:
        assert self._folder is not None
        self._prompts = None
        start = starting.VllmStart(self.options, checkpoint, flagos, self._folder)
        self._vllm = await start.run()
        await start.finish(self._vllm)
        self._prompts = await asyncio.to_thread(Prompts.load, checkpoint, self.options.embedded.trust_remote_code)

    async def _begin_flagos(self, flagos: Session) -> None:
        """Let the workers register the operators that are not registered yet, and try the operators."""
        if flagos.deferred:
            await self.call_workers("flagos_begin")
        if flagos.choice.operators is Operators.PLUGIN:
            names = await self.call_workers("flagos_registered")
            flagos.registered_by_plugin = tuple(sorted(set().union(*names)))
        if flagos.active:
            await asyncio.wait_for(OperatorTrial(self._stream(), self.use_flagos).run(), self.options.start_timeout)

    async def _find_failure(self, flagos: Session) -> Failure | None:
        """Find the operator of FlagOS that failed during the start, or None if FlagOS was not active."""
        how = operator_trial.DID_NOT_START if self._vllm is None else operator_trial.ENDED_BY_TRIAL
        failure = flagos.failure(how)
        named = failure is None or bool(failure.operator)
        if named or not flagos.registered or self._vllm is None or self._prompts is None or self._vllm.errored:
            return failure
        return await OperatorTrial(self._stream(), self.use_flagos).find_failure(flagos, self.options.start_timeout)

    @property
    def vllm(self) -> Any:
        """vLLM's own engine, for the HTTP server, or None if not started."""
        return self._vllm

    def _stream(self) -> VllmStream:
        assert self._prompts is not None
        return VllmStream(self._vllm, self._prompts, self.options.seed, self._note_output)

    def _note_output(self) -> None:
        if self._vitals is not None:
            self._vitals.note_output()

    async def generate(self, generation: Generation) -> AsyncGenerator[TextDelta, None]:
        """See `Engine.generate`."""
        if self._vllm is None:
            raise EngineFailedError("The engine is not started.")
        self._running.add(generation.request_id)
        try:
            async with aclosing(self._stream().with_retry(generation)) as stream:
                async for delta in stream:
                    yield delta
        except AnswerFailedError:
            if self._health.state == "ready" and self._flagos is not None and self._flagos.note_failed_answer():
                self._health = EngineHealth("failed", "The engine failed to answer a request with operators of FlagOS.")
            raise
        except compat.dead_error() as error:
            self._note_death()
            raise EngineFailedError(f"{self._health.message} The engine restarts. Retry when the node is ready.") from error
        except compat.request_errors() as error:
            raise as_rejection(error, generation) from error
        finally:
            self._running.discard(generation.request_id)
            self._ended_generations += 1

    def _note_death(self) -> None:
        """Record that the engine's process died. If an operator of FlagOS is the cause, the next engine does not use it."""
        failed_before = self._health.state == "failed"
        self._health = EngineHealth("failed", _death())
        if not failed_before and self._flagos is not None:
            self._flagos.note_death(self._ended_generations)

    async def measure(self, generation: Generation, probabilities: bool = False) -> measuring.MeasuredGeneration:
        """See `measuring.measure`.

        :raises EngineFailedError: the engine died.
        """
        assert self._prompts is not None
        try:
            return await measuring.measure(self._vllm, self._prompts, generation, probabilities)
        except compat.dead_error() as error:
            self._note_death()
            raise EngineFailedError("The engine's process died.") from error

    async def use_flagos(self, names: Sequence[str]) -> None:
        """Use exactly these operators of FlagGems, and mark all as not called.

        :raises EngineFailedError: the engine died.
        """
        await self.call_workers("flagos_use", list(names))

    async def call_workers(self, method: str, *values: Any, timeout: float = starting.RPC_TIMEOUT) -> list[Any]:
        """Call a method of each worker within ``timeout`` seconds, and return the results.

        :raises EngineFailedError: the engine died.
        """
        try:
            results: list[Any] = await self._vllm.collective_rpc(method, timeout=timeout, args=values)
            return results
        except compat.dead_error() as error:
            if self._health.state == "ready":  # `_find_failure` handles a failed start.
                self._note_death()
            raise EngineFailedError("The engine's process died.") from error

    @property
    def flagos_failure(self) -> Failure | None:
        """The operator of FlagGems that failed in a dead engine, or None if FlagGems was not active."""
        return None if self._flagos is None else self._flagos.failure("its process died")

    async def abort(self, request_id: str) -> None:
        """See `Engine.abort`."""
        if self._vllm is not None:
            await self._vllm.abort(request_id)

    def health(self) -> EngineHealth:
        """See `Engine.health`."""
        health = self._health
        if health.state == "ready" and self._vllm is not None and self._vllm.errored:
            health = EngineHealth("failed", _death())
        limit = self.options.embedded.stall_timeout
        stall = "" if self._vitals is None else self._vitals.describe_stall(limit)
        if stall and health.state == "ready" and self._vitals is not None and 0 < limit <= self._vitals.stalled_for:
            health = EngineHealth("failed", stall)
        flagos = self._flagos
        if flagos is None or health.state != "ready":
            return EngineHealth(health.state, health.message, running=len(self._running))
        return EngineHealth(
            health.state,
            health.message,
            running=len(self._running),
            warning=" ".join(text for text in (stall, flagos.warning) if text),
            flagos_active=flagos.active,
            flagos_operators=flagos.operators,
            image_cache=compat.image_cache(self._vllm),
        )

    async def close(self) -> None:
        """See `Engine.close`."""
        vllm, self._vllm = self._vllm, None
        vitals, self._vitals = self._vitals, None
        self._health = EngineHealth("stopped", "The engine is closed.")
        if vitals is not None:
            await vitals.close()
            if vitals.reason and self._folder is not None:
                self._folder.kill()  # A stopped process ignores SIGTERM.
        if vllm is not None:
            await compat.stop_listening(vllm)
            await asyncio.to_thread(compat.shut_down, vllm)
        if self._flagos is not None:
            self._flagos.release()
        self._release_folder()

    def _release_folder(self) -> None:
        if self._folder is not None:
            self._folder.release()
        self._folder = None


def _death() -> str:
    """Return a sentence about the death of the engine's process, with the reason if it is known."""
    return " ".join(text for text in ("The engine's process died.", space.shortage()) if text)


def _describe(options: EngineOptions, vllm: Any, version: str, prompts: Prompts, flagos: Session) -> EngineInfo:
    from vllm.platforms import current_platform

    checkpoint = prompts.checkpoint
    return EngineInfo(
        model=options.model,
        model_type=checkpoint.model_type,
        engine=f"vllm {version} ({current_platform.device_name})",
        max_model_len=vllm.vllm_config.model_config.max_model_len,
        min_pixels=checkpoint.min_pixels,
        max_pixels=checkpoint.max_pixels,
        cell=checkpoint.cell,
        flagos_active=flagos.active,
        takes_video=compat.takes_videos(vllm) and prompts.renders_video(),
        special_tokens=prompts.special_tokens,
        details=flagos.details(),
        count_tokens=prompts.count_tokens,
        origin=ModelOrigin((options.model,), checkpoint.path),
    )
