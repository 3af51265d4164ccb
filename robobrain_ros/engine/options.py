"""How an engine is set up: the one table of its options, from which the node's ``engine.*`` parameters are made."""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import GenericAlias
from typing import Any
from urllib.parse import urlsplit

from robobrain_ros.engine.addresses import is_loopback
from robobrain_ros.engine.base import DEFAULT_CONTEXT, DEFAULT_MAX_PIXELS, LARGEST_MAX_PIXELS, MOST_IMAGES
from robobrain_ros.engine.keys import read_key
from robobrain_ros.errors import EngineConfigError

KINDS = ("embedded", "remote")
IMAGE_FORMATS = ("png", "jpeg")
CELLS = {"qwen2_5_vl": 28, "qwen3_vl": 32}
"""By model type: side of the square of pixels that a visual token covers. No server tells it."""
KEY_VARIABLE = "ROBOBRAIN_ROS_ENGINE_KEY"
"""Environment variable with the key of the remote servers, where no file is named."""

SERVER_KEY_VARIABLE = "ROBOBRAIN_ROS_SERVER_KEY"
"""Environment variable with the key that clients of the HTTP server must bring, where no file is named."""
ENGINE_PREFIX = "engine."
FLAGOS_PREFIX = "flagos."
SERVER_PREFIX = "openai_server."
OPTION_PREFIXES = (ENGINE_PREFIX, FLAGOS_PREFIX, SERVER_PREFIX)
"""With what the names of the parameters of engine and server begin."""

DTYPES = ("auto", "bfloat16", "float16", "float32")
LOAD_FORMATS = ("auto", "safetensors", "pt", "dummy", "runai_streamer", "bitsandbytes")
EXECUTOR_BACKENDS = ("", "mp", "ray", "uni")
LOG_LEVELS = ("debug", "info", "warning", "error")
FLAGOS_MODES = ("auto", "on", "off")
FLAGOS_PLATFORMS = ("auto", "fl", "vllm")

_FLAGOS_FIELDS = "flagos_"
"""Options whose names begin with this are called ``flagos.*`` outside; all others are ``engine.*``."""


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


def public_name(name: str) -> str:
    """What users call an option: its parameter's name, such as ``engine.dtype`` or ``flagos.mode``."""
    if name.startswith(_FLAGOS_FIELDS):
        return f"{FLAGOS_PREFIX}{name.removeprefix(_FLAGOS_FIELDS)}"
    return f"{ENGINE_PREFIX}{name}"


@dataclass(frozen=True)
class EngineOptions:
    """Options of an engine. Each field's metadata has description, minimum, maximum and choices."""

    kind: str = option(
        "embedded",
        "embedded: vLLM inside of this process; remote: the servers of engine.urls (docs/how-to/remote_engine.md).",
        choices=KINDS,
    )
    model: str = option(
        "",
        "Checkpoint: a folder, a name on the hub such as BAAI/RoboBrain2.0-7B, or one of docs/reference/models.md such as "
        "robobrain2.0-7b, which has values of its own for options at their defaults. Empty: the demo model. "
        "With kind remote: what the servers call their model; empty: they are asked.",
    )
    dtype: str = option("auto", "Type of the weights in memory; auto: as the checkpoint says.", choices=DTYPES)
    max_model_len: int = option(
        0,
        f"Most tokens of a request, images and answer included; 0: {DEFAULT_CONTEXT}, or what the model can if that is less.",
        minimum=0,
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
        "",
        "What runs the workers: mp (processes), ray (a Ray cluster), uni (no process of its own). Empty: vLLM chooses.",
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
    quantization: str = option("", "Quantization such as fp8_per_tensor or awq; empty: as the checkpoint says.")
    enforce_eager: bool = option(
        False, "Run without CUDA graphs: starts faster, answers slower. On the CPU the engine is always eager."
    )
    max_num_seqs: int = option(16, "Requests that the engine works on at once; more wait.", minimum=1, maximum=1024)
    max_pixels: int = option(
        DEFAULT_MAX_PIXELS,
        "Pixels an image may have in the model's eyes; larger ones are shrunk. Fewer are faster and less exact.",
        minimum=784,
        maximum=LARGEST_MAX_PIXELS,
    )
    max_images: int = option(4, "Most images in one request.", minimum=1, maximum=MOST_IMAGES)
    image_cache_mib: int = option(
        256,
        "Memory limit for the cache of prepared images in MiB, in the node and in each engine process. At least one image of "
        "engine.max_pixels fits. 0: no cache.",
        minimum=0,
        maximum=65536,
    )
    load_format: str = option("auto", "Form of the weights; dummy: random ones of the right shape.", choices=LOAD_FORMATS)
    seed: int = option(0, "Seed of all that is random in the engine.", minimum=0, maximum=2**31 - 1)
    trust_remote_code: bool = option(False, "Run Python code that comes with the checkpoint. RoboBrain needs none.")
    start_timeout: float = option(1800.0, "Seconds that starting may take, download not counted.", minimum=10.0, maximum=86400.0)
    stall_timeout: float = option(
        60.0,
        "Seconds after which the node restarts a stalled engine (its process is stopped, or its device hangs). /diagnostics "
        "warns within 10 s. 0: never.",
        minimum=0.0,
        maximum=86400.0,
    )
    log_level: str = option("error", "From which level on vLLM's own log lines are shown.", choices=LOG_LEVELS)
    extra: str = option("", 'Any other argument of vLLM\'s engine, as a JSON object: {"block_size": 32}.')
    urls: tuple[str, ...] = option(
        (), "kind remote: OpenAI-compatible servers of one model, such as http://gpu:9010/v1; the least loaded one is asked."
    )
    key_file: str = option(
        "", f"kind remote: file that holds the servers' key alone. Empty: environment variable {KEY_VARIABLE}, or no key."
    )
    model_type: str = option(
        "",
        "kind remote: model_type of the served checkpoint's config.json. Empty: told by the model's name.",
        choices=("", *CELLS),
    )
    image_format: str = option(
        "png",
        "kind remote: how images travel. png: exactly; jpeg: a quarter of the bytes, not exactly.",
        choices=IMAGE_FORMATS,
    )
    image_quality: int = option(95, "kind remote: quality of jpeg.", minimum=1, maximum=100)
    verify: bool = option(True, "kind remote: refuse servers whose certificate does not verify. False: who listens gets the key.")
    ca_file: str = option("", "kind remote: PEM file with the certificates to trust. Empty: the public authorities'.")
    flagos_mode: str = option(
        "auto",
        "FlagGems' operators inside of vLLM. auto: those that tune_flagos found right and not slower here, "
        "with this chip and model, else none; on: all but flagos.exclude, or those of flagos.include; off: none.",
        choices=FLAGOS_MODES,
    )
    flagos_include: tuple[str, ...] = option(
        (), "FlagGems operators to use and no others, by their functions' names, such as mm. In mode auto: of the measured ones."
    )
    flagos_exclude: tuple[str, ...] = option((), "FlagGems operators to leave out, by their functions' names, such as mm.")
    flagos_record: bool = option(
        False, "Let FlagGems log each operator once, with shapes, into a file that /diagnostics names. Costs speed."
    )
    flagos_platform: str = option(
        "auto",
        "vllm-plugin-FL's platform, which runs vLLM on other makers' chips. auto: where it is installed; fl: it must be; "
        "vllm: vLLM's own platform, even where it is.",
        choices=FLAGOS_PLATFORMS,
    )
    flagos_tune_file: str = option(
        "", "File that tune_flagos writes and mode auto reads. Empty: robobrain_ros/flagos.json in $XDG_CACHE_HOME or ~/.cache."
    )

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
            _check_value(public_name(item.name), getattr(self, item.name), item.type, item.metadata)
        self.extra_arguments()
        if self.kind == "remote":
            self._validate_remote()
            return
        if not self.model.strip():
            raise EngineConfigError("engine.model is empty; name a folder, or a model such as BAAI/RoboBrain2.0-7B.")
        if self.urls:
            raise EngineConfigError("engine.urls is set, but engine.kind is embedded; set engine.kind to remote to ask servers.")
        if self.flagos_include and self.flagos_exclude:
            raise EngineConfigError("flagos.include and flagos.exclude are both set; name what to use, or what to leave out.")
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

    def _validate_remote(self) -> None:
        if not self.urls:
            raise EngineConfigError("engine.kind is remote, but engine.urls is empty; name a server such as http://gpu:9010/v1.")
        for url in self.urls:
            _check_url(url)
        if len({base_url(url) for url in self.urls}) < len(self.urls):
            raise EngineConfigError("engine.urls names a server twice.")
        self.read_key()

    def read_key(self) -> str:
        """The key of the remote servers; empty: there is none.

        :raises EngineConfigError: the file cannot be read, or holds no key.
        """
        return read_key(self.key_file, "engine.key_file", KEY_VARIABLE)

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
            raise EngineConfigError(f"engine.extra sets {own[0]}, which is an option of its own: {public_name(own[0])}.")
        return arguments


@dataclass(frozen=True)
class ServerOptions:
    """Options of the HTTP server on the embedded engine; metadata as of `EngineOptions`."""

    enabled: bool = option(
        False, "Open an OpenAI-compatible HTTP server on the node's embedded engine (docs/how-to/http_server.md)."
    )
    host: str = option("127.0.0.1", "Address to listen at. Any other than this machine's own asks for a key.")
    port: int = option(9010, "Port to listen at.", minimum=1, maximum=65535)
    key_file: str = option(
        "", f"File that holds the key that clients must bring, alone. Empty: environment variable {SERVER_KEY_VARIABLE}, or none."
    )
    max_requests: int = option(
        4,
        "Requests over HTTP that are worked on at once, fewer than engine.max_num_seqs; the next gets 429.",
        minimum=1,
        maximum=1023,
    )
    max_body_mib: int = option(24, "Size limit of an HTTP request's body in MiB, images included.", minimum=1, maximum=1024)
    max_image_pixels: int = option(
        16_777_216,
        "Pixel limit of all images of one HTTP request together, checked before they are decoded.",
        minimum=784,
        maximum=178_956_970,
    )
    max_connections: int = option(64, "Most open connections to the HTTP server.", minimum=4, maximum=1024)
    max_connections_per_client: int = option(
        16,
        "Most connections of one address (IPv6: one /64 network) without a request with the key. A new one closes the oldest.",
        minimum=1,
        maximum=1024,
    )
    allowed_media_domains: tuple[str, ...] = option(
        (), "Hosts from which the server fetches images by URL. Empty: only images within the request (data:)."
    )
    model_names: tuple[str, ...] = option(
        (),
        "Further names under which clients find the model. Empty: the names under which FlagRelease and FlagScale serve the "
        "same checkpoint (docs/reference/http_server.md).",
    )

    def validate(self, engine: EngineOptions) -> str:
        """Check what can be checked without opening anything; gives the key, or an empty text.

        :raises EngineConfigError: with the name of the option and what it may be.
        """
        for item in fields(self):
            _check_value(f"{SERVER_PREFIX}{item.name}", getattr(self, item.name), item.type, item.metadata)
        if not self.enabled:
            return ""
        if engine.kind != "embedded":
            raise EngineConfigError("openai_server.enabled serves the embedded engine; engine.kind remote has servers already.")
        if self.max_requests >= engine.max_num_seqs:
            raise EngineConfigError(
                f"openai_server.max_requests is {self.max_requests}; it must be less than engine.max_num_seqs = "
                f"{engine.max_num_seqs}, so that places are left for the robot."
            )
        key = read_key(self.key_file, f"{SERVER_PREFIX}key_file", SERVER_KEY_VARIABLE)
        if not key and not is_loopback(self.host):
            raise EngineConfigError(
                f"openai_server.host is {self.host}, which others can reach, and there is no key; write one into a file and name "
                f"it in openai_server.key_file, or set {SERVER_KEY_VARIABLE}."
            )
        return key


def base_url(url: str) -> str:
    """The address below which a server's API lies; /v1 where only the server itself is named."""
    parts = urlsplit(url.strip())
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # Not repeated: it may hold a key.
        raise EngineConfigError("engine.urls holds more than addresses; a key belongs into engine.key_file.")
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise EngineConfigError(f"engine.urls: {url!r} is no address of a server; it must look like http://gpu:9010/v1.")


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
    if isinstance(kind, GenericAlias):
        if not isinstance(value, tuple | list) or not all(isinstance(item, str) and item for item in value):
            raise EngineConfigError(f"{name} must be a list of texts, not {value!r}.")
        return
    kind_name = kind if isinstance(kind, str) else kind.__name__
    accepted: dict[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}
    if not isinstance(value, accepted[kind_name]) or (isinstance(value, bool) and kind_name != "bool"):
        raise EngineConfigError(f"{name} must be of type {kind_name}, not {value!r}.")
    if metadata["choices"] and value not in metadata["choices"]:
        raise EngineConfigError(f"{name} is {value!r}; it must be one of {', '.join(metadata['choices'])}.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    minimum, maximum = metadata["minimum"], metadata["maximum"]
    if not math.isfinite(value) or (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        bounds = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise EngineConfigError(f"{name} is {value}; it must be {bounds}.")
