"""How an engine is set up: the one table of its options, from which the node's ``engine.*`` parameters are made."""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from robobrain_ros.errors import EngineConfigError

DTYPES = ("auto", "bfloat16", "float16", "float32")
LOAD_FORMATS = ("auto", "safetensors", "pt", "dummy", "runai_streamer", "bitsandbytes")
EXECUTOR_BACKENDS = ("", "mp", "ray", "uni")
LOG_LEVELS = ("debug", "info", "warning", "error")


def option(
    default: Any,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of `EngineOptions`: its default, what it means, and what it may be. Bounds are inclusive."""
    metadata = {"description": description, "minimum": minimum, "maximum": maximum, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class EngineOptions:
    """Options of the embedded engine. Each field's metadata has description, minimum, maximum and choices."""

    model: str = option(
        "",
        "Checkpoint: a folder, a name on the hub such as BAAI/RoboBrain2.0-7B, or one of docs/models.md such as robobrain2.0-7b, "
        "which has values of its own for options at their defaults. Empty: the demo model.",
    )
    dtype: str = option("auto", "Type of the weights in memory; auto: as the checkpoint says.", choices=DTYPES)
    max_model_len: int = option(
        0, "Most tokens of a request, pictures and answer included; 0: 8192, or what the model can if that is less.", minimum=0
    )
    gpu_memory_utilization: float = option(
        0.9, "Share of the GPU's memory that the engine may take, weights included.", minimum=0.05, maximum=1.0
    )
    cpu_memory_gib: int = option(
        1, "Memory for the cache of keys and values, in GiB, where the engine runs on the CPU.", minimum=1, maximum=1024
    )
    tensor_parallel_size: int = option(1, "GPUs that share each layer.", minimum=1, maximum=64)
    pipeline_parallel_size: int = option(1, "Groups of GPUs that share the layers.", minimum=1, maximum=64)
    data_parallel_size: int = option(1, "Copies of the model that share the requests.", minimum=1, maximum=64)
    distributed_executor_backend: str = option(
        "", "What runs the workers: mp (processes), ray (a Ray cluster), uni (no process of its own). Empty: vLLM chooses.",
        choices=EXECUTOR_BACKENDS,
    )
    nnodes: int = option(
        1,
        "Machines that share the model without Ray; this one is the first. The log tells the command for the others.",
        minimum=1,
        maximum=64,
    )
    master_addr: str = option("", "Address of this machine at which the others reach it, where nnodes is more than 1.")
    master_port: int = option(29501, "Port at master_addr, where nnodes is more than 1.", minimum=1024, maximum=65535)
    quantization: str = option("", "Quantization such as fp8 or awq; empty: as the checkpoint says.")
    enforce_eager: bool = option(
        False, "Run without CUDA graphs: starts faster, answers slower. On the CPU the engine is always eager."
    )
    max_num_seqs: int = option(16, "Requests that the engine works on at once; more wait.", minimum=1, maximum=1024)
    max_pixels: int = option(
        1280 * 28 * 28,
        "Pixels a picture may have in the model's eyes; larger ones are shrunk. Fewer are faster and less exact.",
        minimum=784,
        maximum=12845056,
    )
    max_images: int = option(4, "Most pictures in one request.", minimum=1, maximum=8)
    load_format: str = option("auto", "Form of the weights; dummy: random ones of the right shape.", choices=LOAD_FORMATS)
    seed: int = option(0, "Seed of all that is random in the engine.", minimum=0, maximum=2**31 - 1)
    trust_remote_code: bool = option(False, "Run Python code that comes with the checkpoint. RoboBrain needs none.")
    start_timeout: float = option(1800.0, "Seconds that starting may take, download not counted.", minimum=10.0, maximum=86400.0)
    log_level: str = option("error", "From which level on vLLM's own log lines are shown.", choices=LOG_LEVELS)
    extra: str = option("", 'Any other argument of vLLM\'s engine, as a JSON object: {"block_size": 32}.')

    @property
    def gpus(self) -> int:
        """GPUs that the model is spread over, on all machines together."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @property
    def quiet(self) -> bool:
        """Whether only what has gone wrong is to be shown of vLLM."""
        return self.log_level == "error"

    def validate(self) -> None:
        """Check every value that can be checked without loading anything.

        :raises EngineConfigError: with the name of the option and what it may be.
        """
        for item in fields(self):
            _check_value(item.name, getattr(self, item.name), item.type, item.metadata)
        if not self.model.strip():
            raise EngineConfigError("engine.model is empty; name a folder, or a model such as BAAI/RoboBrain2.0-7B.")
        self.extra_arguments()
        self._check_nodes()

    def _check_nodes(self) -> None:
        if self.nnodes == 1:
            return
        if not self.master_addr.strip():
            raise EngineConfigError("engine.nnodes is more than 1, so engine.master_addr must say where this machine is reached.")
        if self.distributed_executor_backend not in ("", "mp"):
            raise EngineConfigError(
                f"engine.nnodes is for the backend mp; leave it at 1 with {self.distributed_executor_backend}."
            )
        if self.gpus % self.nnodes:
            raise EngineConfigError(
                f"tensor_parallel_size x pipeline_parallel_size x data_parallel_size = {self.gpus} GPUs cannot be had evenly "
                f"from engine.nnodes = {self.nnodes} machines."
            )

    def extra_arguments(self) -> dict[str, Any]:
        """What ``extra`` says.

        :raises EngineConfigError: it is not a JSON object, or sets what has an option of its own.
        """
        if not self.extra.strip():
            return {}
        try:
            arguments = json.loads(self.extra)
        except ValueError as error:
            raise EngineConfigError(f"engine.extra is not JSON: {error}.") from error
        if not isinstance(arguments, dict):
            raise EngineConfigError('engine.extra must be a JSON object such as {"block_size": 32}.')
        own = sorted({item.name for item in fields(self)} & arguments.keys())
        if own:
            raise EngineConfigError(f"engine.extra sets {own[0]}, which is an option of its own: engine.{own[0]}.")
        return arguments


def refuse_unknown(arguments: dict[str, Any], known: set[str]) -> None:
    """Refuse names that vLLM's engine does not know, and say the nearest that it does.

    :raises EngineConfigError: for the first unknown name.
    """
    for name in arguments:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise EngineConfigError(f"engine.extra: this version of vLLM has no engine argument {name!r}{hint}")


def _check_value(name: str, value: Any, kind: Any, metadata: Mapping[str, Any]) -> None:
    kind_name = kind if isinstance(kind, str) else kind.__name__
    accepted: dict[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}
    if not isinstance(value, accepted[kind_name]) or (isinstance(value, bool) and kind_name != "bool"):
        raise EngineConfigError(f"engine.{name} must be of type {kind_name}, not {value!r}.")
    if metadata["choices"] and value not in metadata["choices"]:
        raise EngineConfigError(f"engine.{name} is {value!r}; it must be one of {', '.join(metadata['choices'])}.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    minimum, maximum = metadata["minimum"], metadata["maximum"]
    if not math.isfinite(value) or (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        bounds = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise EngineConfigError(f"engine.{name} is {value}; it must be {bounds}.")
