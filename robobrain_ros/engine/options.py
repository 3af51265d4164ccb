"""The options of an engine. The node's ``engine.*`` and ``flagos.*`` parameters are generated from them.

Other packages identify an option by its keyword. The keyword is the name of the option's field. Keywords of `FlagosOptions` have
the prefix ``flagos_``.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from robobrain_ros.bounds.json_text import parse_json
from robobrain_ros.engine.addresses import base_url, check_server_url
from robobrain_ros.engine.base import DEFAULT_CONTEXT, DEFAULT_MAX_PIXELS, LARGEST_MAX_PIXELS, MOST_IMAGES
from robobrain_ros.engine.keys import read_key
from robobrain_ros.engine.option import check_values, option
from robobrain_ros.errors import EngineConfigError

KINDS = ("embedded", "remote")
IMAGE_FORMATS = ("png", "jpeg")
CELLS = {"qwen2_5_vl": 28, "qwen3_vl": 32}
"""By model type: side in pixels of the square that a visual token covers. Servers do not report it."""
KEY_VARIABLE = "ROBOBRAIN_ROS_ENGINE_KEY"
"""Environment variable with the key of the remote servers, if no file is set."""
ENGINE_PREFIX = "engine."
FLAGOS_PREFIX = "flagos."
SERVER_PREFIX = "openai_server."
OPTION_PREFIXES = (ENGINE_PREFIX, FLAGOS_PREFIX, SERVER_PREFIX)
"""Prefixes of the parameter names of engine and HTTP server."""

DTYPES = ("auto", "bfloat16", "float16", "float32")
LOAD_FORMATS = ("auto", "safetensors", "pt", "dummy", "runai_streamer", "bitsandbytes")
EXECUTOR_BACKENDS = ("", "mp", "ray", "uni")
LOG_LEVELS = ("debug", "info", "warning", "error")
VIDEO_CHOICES = ("auto", "yes", "no")
FLAGOS_MODES = ("auto", "on", "off")
FLAGOS_PLATFORMS = ("auto", "fl", "vllm")

LONGEST_CONTEXT = 2**20
"""Largest value of ``engine.max_model_len``: four times the context of the supported models."""

_FLAGOS_KEYWORDS = "flagos_"


@dataclass(frozen=True)
class EmbeddedOptions:
    """Options of vLLM in this process."""

    dtype: str = option("auto", "Data type of the weights in memory. auto: the data type in the checkpoint.", choices=DTYPES)
    max_model_len: int = option(
        0,
        f"Maximum tokens of a request, including images and answer. 0: {DEFAULT_CONTEXT}, or the limit of the model if "
        "that is lower.",
        minimum=0,
        maximum=LONGEST_CONTEXT,
    )
    gpu_memory_utilization: float = option(
        0.9, "Share of the GPU's memory that the engine may use, including the weights.", minimum=0.05, maximum=1.0
    )
    cpu_memory_gib: int = option(
        1,
        "Memory for the tokens of running requests (KV cache) in GiB if the engine runs on the CPU.",
        minimum=1,
        maximum=1024,
    )
    tensor_parallel_size: int = option(1, "Number of GPUs that share each layer.", minimum=1, maximum=64)
    pipeline_parallel_size: int = option(
        1, "Number of pipeline stages: groups of layers, each on its own GPUs.", minimum=1, maximum=64
    )
    data_parallel_size: int = option(
        1, "Number of copies of the model. The engine distributes the requests over the copies.", minimum=1, maximum=64
    )
    distributed_executor_backend: str = option(
        "",
        "How vLLM runs its workers. mp: processes. ray: a Ray cluster. uni: in the engine's own process. Empty: uni for one GPU, "
        "and for a CPU with one NUMA node. In other cases, vLLM decides.",
        choices=EXECUTOR_BACKENDS,
    )
    nnodes: int = option(
        1,
        "Number of machines, including this one, if vLLM distributes the model over several machines without Ray. The log shows "
        "the command to run on the other machines. 1: one machine, or Ray.",
        minimum=1,
        maximum=64,
    )
    master_addr: str = option("", "Address at which the other machines reach this machine. Required if engine.nnodes is above 1.")
    master_port: int = option(29501, "Port on engine.master_addr, if engine.nnodes is above 1.", minimum=1024, maximum=65535)
    quantization: str = option(
        "", "vLLM's quantization method, such as fp8_per_tensor or awq. Empty: the method of the model's preset or checkpoint."
    )
    enforce_eager: bool = option(
        False, "Run without CUDA graphs. The engine starts faster and answers slower. Always true on the CPU."
    )
    image_cache_mib: int = option(
        256,
        "Size of the cache of preprocessed images in MiB. The node has one such cache, and each engine process has another. If "
        "the value is too small for one image of engine.max_pixels, the node raises it to the size of this image. 0: no cache.",
        minimum=0,
        maximum=65536,
    )
    video: str = option(
        "auto",
        "Whether the model gets images of different times as a video (docs/how-to/history.md). yes: as a video, which needs half "
        "the tokens of separate images. The engine reserves memory for it. no: as separate images, with their times in the "
        "prompt. auto: yes if a camera has a history (<camera>.history_frames), otherwise no. If the chat template of the "
        "checkpoint supports no videos, yes has the same effect as no.",
        choices=VIDEO_CHOICES,
    )
    load_format: str = option(
        "auto", "Format of the weight files. dummy: random weights of the right shapes, without files.", choices=LOAD_FORMATS
    )
    trust_remote_code: bool = option(False, "Run Python code that the checkpoint contains. RoboBrain does not need it.")
    stall_timeout: float = option(
        60.0,
        "Seconds after which the node restarts an engine that has stalled. An engine stalls if its process is stopped or its "
        "device hangs. /diagnostics shows the stall. 0: never.",
        minimum=0.0,
        maximum=86400.0,
    )
    log_level: str = option("error", "Minimum level of vLLM's log lines on the console.", choices=LOG_LEVELS)
    extra: str = option("", 'Further arguments of vLLM\'s engine, as a JSON object such as {"block_size": 32}.')

    @property
    def gpus(self) -> int:
        """Number of GPUs of the model, on all machines together."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @property
    def quiet(self) -> bool:
        """Whether vLLM shows errors only."""
        return self.log_level == "error"

    def extra_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``extra``.

        :raises EngineConfigError: it is not a JSON object, or sets an argument that has an option.
        """
        if not self.extra.strip():
            return {}
        try:
            arguments = parse_json(self.extra)
        except ValueError as error:
            raise EngineConfigError(f"engine.extra is not JSON: {error}.") from error
        if not isinstance(arguments, dict):
            raise EngineConfigError('engine.extra must be a JSON object such as {"block_size": 32}.')
        own = sorted(option_fields().keys() & arguments.keys())
        if own:
            raise EngineConfigError(f"engine.extra sets {own[0]}. Set the parameter {public_name(own[0])} instead.")
        return arguments

    def check_machines(self) -> None:
        """Check the options of several machines.

        :raises EngineConfigError: they contradict each other.
        """
        if self.nnodes == 1:
            return
        if not self.master_addr.strip():
            raise EngineConfigError(
                "engine.nnodes is above 1, but engine.master_addr is empty. Set it to the address of this machine for the others."
            )
        if self.distributed_executor_backend not in ("", "mp"):
            raise EngineConfigError(
                f"engine.nnodes works with the backend mp only. Set it to 1 with {self.distributed_executor_backend}."
            )
        if self.gpus % self.nnodes:
            raise EngineConfigError(
                f"tensor_parallel_size x pipeline_parallel_size x data_parallel_size = {self.gpus} GPUs cannot be shared evenly "
                f"by engine.nnodes = {self.nnodes} machines."
            )


@dataclass(frozen=True)
class RemoteOptions:
    """Options of an engine that uses OpenAI-compatible servers."""

    urls: tuple[str, ...] = option(
        (),
        "kind remote: OpenAI-compatible servers of one model, such as http://gpu:9010/v1. The node sends each request to the "
        "server that processes the fewest requests of this node.",
    )
    key_file: str = option(
        "",
        "kind remote: file that contains only the API key of the servers. The node sends the key in the HTTP header "
        f"Authorization. Empty: environment variable {KEY_VARIABLE}, or no key.",
    )
    model_type: str = option(
        "",
        "kind remote: model_type in config.json of the served checkpoint. Empty: derived from model_profile or the model's name.",
        choices=("", *CELLS),
    )
    image_format: str = option(
        "png",
        "kind remote: format of images on the network. png is lossless. jpeg is lossy and needs about a quarter of the bytes.",
        choices=IMAGE_FORMATS,
    )
    image_quality: int = option(95, "kind remote: quality of jpeg images, in percent.", minimum=1, maximum=100)
    verify: bool = option(
        True,
        "kind remote: reject https servers without a valid TLS certificate. false: others on the network path can read the key "
        "and the images. The node does not check http servers, and connections to them are not encrypted.",
    )
    ca_file: str = option("", "kind remote: PEM file with certificates to trust. Empty: certificates of public authorities.")

    def check(self) -> None:
        """Check what can be checked without contacting a server.

        :raises EngineConfigError: the URLs are missing or malformed, or the key cannot be read.
        """
        if not self.urls:
            raise EngineConfigError("engine.kind is remote, but engine.urls is empty. Add a server such as http://gpu:9010/v1.")
        for url in self.urls:
            check_server_url(url)
        if len({base_url(url) for url in self.urls}) < len(self.urls):
            raise EngineConfigError("engine.urls contains a server twice.")
        self.read_key()

    def read_key(self) -> str:
        """Return the key of the servers, or an empty string if there is none.

        :raises EngineConfigError: the file cannot be read, or is empty.
        """
        return read_key(self.key_file, "engine.key_file", KEY_VARIABLE)


@dataclass(frozen=True)
class FlagosOptions:
    """Options of FlagOS in an embedded engine."""

    mode: str = option(
        "auto",
        "Which operators vLLM uses instead of PyTorch's (docs/how-to/flagos.md). off: none. auto: FlagGems operators that "
        "tune_flagos measured on this machine as correct and not slower than PyTorch's. If there are measurements for this GPU, "
        "also matrix products by shape. on: all FlagGems operators in flagos.include, or all FlagGems operators if this list is "
        "empty. In the second case, vLLM does not use the operators in flagos.exclude and those that are excluded by default "
        "(docs/explanation/flagos.md). With on, vLLM uses no matrix products by shape. If vllm-plugin-FL runs the model "
        "(flagos.platform), auto and on have other meanings.",
        choices=FLAGOS_MODES,
    )
    include: tuple[str, ...] = option(
        (),
        "The only FlagGems operators that vLLM may use, such as silu. Empty: no restriction. With flagos.mode on, vLLM uses all "
        "operators in the list. With auto, it uses the operators in the list that tune_flagos selected. If the list contains "
        "operators, but none of mm, mm_out, addmm and addmm_out, auto also uses no matrix products by shape. Set only one of "
        "flagos.include and flagos.exclude.",
    )
    exclude: tuple[str, ...] = option(
        (),
        "FlagGems operators that vLLM must not use, such as silu. If the list contains one of mm, mm_out, addmm and addmm_out "
        "(FlagGems' matrix products), vLLM also uses no matrix products by shape. Set only one of flagos.include and "
        "flagos.exclude.",
    )
    record: bool = option(
        False,
        "Let FlagGems log the first call of each operator to files. The engine is then slower. The key flagos_log in "
        "/diagnostics shows the names of the files. If vllm-plugin-FL selects the operators (flagos.platform), FlagGems writes "
        "the log with both values.",
    )
    platform: str = option(
        "auto",
        "Platform of vLLM: the software with which vLLM runs the model on the chip. vLLM contains platforms, for example for "
        "NVIDIA GPUs. The package vllm-plugin-FL contains a platform for the chips of many vendors. auto: the platform of "
        "vllm-plugin-FL if vLLM can use it, otherwise a platform of vLLM. fl: only the platform of vllm-plugin-FL. If vLLM "
        "cannot use it, the engine does not start. vllm: only a platform of vLLM, even if vllm-plugin-FL is installed.",
        choices=FLAGOS_PLATFORMS,
    )
    tune_file: str = option(
        "",
        "File with the FlagGems operators that tune_flagos selected. tune_flagos writes the file, and flagos.mode auto reads it. "
        "The tables of the matrix products by shape are in a folder beside the file: flagos_shapes for the file flagos.json. "
        "Empty: $XDG_CACHE_HOME/robobrain_ros/flagos.json, or ~/.cache/robobrain_ros/flagos.json if XDG_CACHE_HOME is not set.",
    )

    def check(self) -> None:
        """Check the options against each other.

        :raises EngineConfigError: they contradict each other.
        """
        if self.include and self.exclude:
            raise EngineConfigError("flagos.include and flagos.exclude are both set. Set only one of them.")


@dataclass(frozen=True)
class EngineOptions:
    """All options of an engine. The metadata of each field has the keys description, minimum, maximum and choices."""

    kind: str = option(
        "embedded",
        "Where the model runs. embedded: in vLLM, which the node starts. remote: on the servers in engine.urls "
        "(docs/how-to/remote_engine.md).",
        choices=KINDS,
    )
    model: str = option(
        "",
        "Model: a folder with a checkpoint, a name on the Hugging Face Hub such as BAAI/RoboBrain2.0-7B, or a preset of "
        "docs/reference/models.md such as robobrain2.0-7b. With the environment variable VLLM_USE_MODELSCOPE=true, names "
        "are those of ModelScope. A preset also sets quantization, max_model_len, gpu_memory_utilization and max_num_seqs, "
        "unless you set them. Empty: the demo model. With kind remote: the name of the model on the servers, or empty for the "
        "name that the servers report.",
    )
    max_num_seqs: int = option(
        16,
        "Maximum number of requests that the engine processes at the same time. Further requests wait.",
        minimum=1,
        maximum=1024,
    )
    max_pixels: int = option(
        DEFAULT_MAX_PIXELS,
        "Pixel limit for each image. Larger images are scaled down. A lower limit is faster and less accurate.",
        minimum=784,
        maximum=LARGEST_MAX_PIXELS,
    )
    max_images: int = option(MOST_IMAGES, "Maximum number of images in one request.", minimum=1, maximum=MOST_IMAGES)
    seed: int = option(0, "Seed of the engine's random numbers.", minimum=0, maximum=2**31 - 1)
    start_timeout: float = option(
        1800.0, "Time limit in seconds for starting the engine, excluding downloads.", minimum=10.0, maximum=86400.0
    )
    embedded: EmbeddedOptions = field(default_factory=EmbeddedOptions)
    remote: RemoteOptions = field(default_factory=RemoteOptions)
    flagos: FlagosOptions = field(default_factory=FlagosOptions)

    @classmethod
    def of(cls, **values: Any) -> "EngineOptions":
        """Return options from values by keyword, such as ``dtype`` or ``flagos_mode``. All other options have their defaults.

        :raises TypeError: there is no such option.
        """
        return cls().changed(**values)

    def changed(self, **values: Any) -> "EngineOptions":
        """Return options with other values, by keyword.

        :raises TypeError: there is no such option.
        """
        known, groups = _groups(), dict[str, dict[str, Any]]()
        for keyword, value in values.items():
            if keyword not in known:
                raise TypeError(f"There is no engine option {keyword!r}.")
            group, item = known[keyword]
            groups.setdefault(group, {})[item.name] = value
        own = groups.pop("", {})
        return replace(self, **own, **{group: replace(getattr(self, group), **changes) for group, changes in groups.items()})

    def value(self, keyword: str) -> Any:
        """Return the value of an option.

        :raises KeyError: there is no such option.
        """
        group, item = _groups()[keyword]
        return getattr(getattr(self, group) if group else self, item.name)

    def validate(self) -> None:
        """Check every value that can be checked without loading anything.

        :raises EngineConfigError: a value is not allowed. The message has the parameter's name and what is allowed.
        """
        for options, prefix in ((self, ENGINE_PREFIX), (self.embedded, ENGINE_PREFIX), (self.remote, ENGINE_PREFIX)):
            check_values(options, prefix)
        check_values(self.flagos, FLAGOS_PREFIX)
        self.embedded.extra_arguments()
        if self.kind == "remote":
            self.remote.check()
            return
        if not self.model.strip():
            raise EngineConfigError("engine.model is empty. Set it to a folder, or to a model such as BAAI/RoboBrain2.0-7B.")
        if self.remote.urls:
            raise EngineConfigError("engine.urls is set, but engine.kind is embedded. Set engine.kind to remote.")
        self.flagos.check()
        self.embedded.check_machines()


def option_fields() -> "Mapping[str, Field[Any]]":
    """Return the dataclass field of every option by keyword, in the order of the parameter tables."""
    return {keyword: item for keyword, (_, item) in _groups().items()}


def public_name(keyword: str) -> str:
    """Return the parameter's name of an option, such as ``engine.dtype`` or ``flagos.mode``."""
    if keyword.startswith(_FLAGOS_KEYWORDS):
        return f"{FLAGOS_PREFIX}{keyword.removeprefix(_FLAGOS_KEYWORDS)}"
    return f"{ENGINE_PREFIX}{keyword}"


def _groups() -> "dict[str, tuple[str, Field[Any]]]":
    """Return the group and the field of every option by keyword. The group is empty for the options of every engine."""
    found = {item.name: ("", item) for item in fields(EngineOptions) if item.metadata}
    for group, kind, prefix in (
        ("embedded", EmbeddedOptions, ""),
        ("remote", RemoteOptions, ""),
        ("flagos", FlagosOptions, _FLAGOS_KEYWORDS),
    ):
        found |= {f"{prefix}{item.name}": (group, item) for item in fields(kind)}
    return found
