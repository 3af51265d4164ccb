"""Convert the options and the checkpoint to arguments of vLLM's engine."""

import difflib
import logging
import math
import os
import shlex
from typing import Any

from robobrain_ros.bounds.files import home_expanded
from robobrain_ros.engine.base import DEFAULT_CONTEXT, FRAMES_OF_VIDEO_TOKEN, MOST_IMAGES, TIMED_TOKENS
from robobrain_ros.engine.embedded import compat, cpu, image_bytes, worker
from robobrain_ros.engine.embedded.checkpoint import Checkpoint
from robobrain_ros.engine.flagos.choice import NATIVE, TABLE_WORKER, TUNING_WORKER, WORKER_EXTENSION, Choice, Operators
from robobrain_ros.engine.options import EngineOptions
from robobrain_ros.errors import EngineConfigError

_MIB = 1 << 20
_BYTES_PER_PIXEL = 24
"""Bytes of a preprocessed image: three colours in float32, each pixel twice, because the encoder takes pairs of video frames."""
_IMAGE_THREADS = 4
"""On an H100 machine, preparing an image of 1280x720 took 18 ms with four threads, and 30 to 44 ms with one."""
_COMPILATION = "compilation_config"
_CAMERA_SIZES = ((640, 480), (848, 480), (1280, 720))
"""Width and height in pixels of images that cameras often send."""
_LARGEST_ENCODER_GRAPH = 1280
"""Visual tokens of the largest image that is encoded with a CUDA graph. The memory of each graph grows with this size."""
_PROMPT_STEP = 64
"""Difference between the prompt lengths that have a CUDA graph. Matrix products work in tiles of at least 64 rows."""
_TEXT_TOKENS = 192
"""Tokens without the visual tokens up to which a prompt with the largest image of a camera has a CUDA graph."""
_ENCODER_GRAPHS = "cudagraph_mm_encoder"
_CAPTURE_SIZES = "cudagraph_capture_sizes"
_OTHER_CAPTURE_SIZES = {_CAPTURE_SIZES, "max_cudagraph_capture_size", "max_model_len", "max_num_seqs", "speculative_config"}
"""Arguments and compilation settings of vLLM that conflict with this module's capture sizes."""

_log = logging.getLogger(__name__)


def engine_arguments(options: EngineOptions, checkpoint: Checkpoint, device: str, choice: Choice = NATIVE) -> dict[str, Any]:
    """Return the arguments of vLLM's engine, without those of ``engine.extra``.

    :param device: vLLM's name of the device type, such as "cpu" or "cuda".
    """
    on_cpu, embedded = device == "cpu", options.embedded
    owner_watch = f"{worker.__name__}.{worker.OwnerWatch.__name__}"
    longest = min(embedded.max_model_len or DEFAULT_CONTEXT, checkpoint.max_positions or DEFAULT_CONTEXT)
    max_pixels = min(options.max_pixels, checkpoint.max_pixels or options.max_pixels)
    arguments: dict[str, Any] = {
        "model": str(checkpoint.path),
        "served_model_name": options.model,
        "dtype": checkpoint.dtype if embedded.dtype == "auto" and checkpoint.dtype == "float32" else embedded.dtype,
        "max_model_len": embedded.max_model_len or longest,
        "tensor_parallel_size": embedded.tensor_parallel_size,
        "pipeline_parallel_size": embedded.pipeline_parallel_size,
        "data_parallel_size": embedded.data_parallel_size,
        "quantization": embedded.quantization or None,
        "enforce_eager": embedded.enforce_eager or on_cpu or (choice.operators is Operators.OURS and not choice.graphs),
        "max_num_seqs": options.max_num_seqs,
        "load_format": embedded.load_format,
        "seed": options.seed,
        "trust_remote_code": embedded.trust_remote_code,
        "mm_processor_cache_gb": image_cache_mib(options) / 1024,
        "limit_mm_per_prompt": {"image": options.max_images, "video": video_limit(options, checkpoint)},
        # vLLM reserves memory for the largest possible image.
        "mm_processor_kwargs": {"max_pixels": max(max_pixels, checkpoint.min_pixels)},
        # The checkpoint's sampling parameters would override the defaults of greedy decoding.
        "generation_config": "vllm",
        "scheduling_policy": "priority",
        "structured_outputs_config": compat.STRUCTURED_OUTPUTS_CONFIG,
        "use_tqdm_on_load": not embedded.quiet,
        "worker_extension_cls": WORKER_EXTENSION if choice.uses_flaggems else owner_watch,
    }
    if on_cpu:
        arguments |= compat.cpu_arguments(checkpoint.model_type)
    else:
        arguments["gpu_memory_utilization"] = embedded.gpu_memory_utilization
    if device == "cuda" and not arguments["enforce_eager"] and not choice.platform:
        # vLLM does not compile the image encoder by default. On an H100 with the 7B, an image took 112 ms without compilation,
        # 80 ms of them in the encoder, and 63 ms with it, 31 ms of them in the encoder.
        graphs = (
            camera_graphs(options, checkpoint, max_pixels, arguments["max_model_len"])
            if _has_camera_graphs(options, checkpoint, choice)
            else {}
        )
        arguments[_COMPILATION] = {"compile_mm_encoder": True} | graphs
        if graphs and arguments["limit_mm_per_prompt"]["video"]:
            # Only the workers for images as bytes can encode images with graphs, and videos without them.
            with_bytes = sends_bytes(checkpoint, device, choice)
            arguments[_COMPILATION] |= compat.no_encoder_graphs_of_videos() if with_bytes else {_ENCODER_GRAPHS: False}
    flagos_worker = TUNING_WORKER if choice.tunes else TABLE_WORKER if choice.by_shape else ""
    if sends_bytes(checkpoint, device, choice):
        arguments["worker_cls"] = flagos_worker or image_bytes.WORKERS[device]
        arguments["mm_processor_kwargs"] |= image_bytes.PROCESSOR_ARGUMENTS
        arguments |= compat.bytes_arguments()
    elif flagos_worker:
        arguments["worker_cls"] = flagos_worker
    if embedded.distributed_executor_backend:
        arguments["distributed_executor_backend"] = embedded.distributed_executor_backend
    if on_cpu:
        arguments |= cpu.executor_arguments(embedded)
    if embedded.nnodes > 1:
        arguments |= {"nnodes": embedded.nnodes, "master_addr": embedded.master_addr, "master_port": embedded.master_port}
    return arguments


def video_limit(options: EngineOptions, checkpoint: Checkpoint) -> int | dict[str, int]:
    """Return vLLM's limit of videos in a request: 0, or one video with the size for which vLLM reserves memory."""
    known = checkpoint.video and checkpoint.cell and checkpoint.model_type in image_bytes.MODEL_TYPES
    if options.embedded.video != "yes" or not known:
        return 0
    cells = TIMED_TOKENS * FRAMES_OF_VIDEO_TOKEN // MOST_IMAGES
    rows = math.isqrt(cells)
    return {
        "count": 1,
        "num_frames": MOST_IMAGES,
        "width": cells // rows * checkpoint.cell,
        "height": rows * checkpoint.cell,
    }


def with_extra(arguments: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments overridden by ``engine.extra``.

    Compilation settings that ``extra`` does not contain are kept. If ``extra`` sets another worker or vLLM's own normalization,
    images are not sent as bytes.
    """
    # With null, vLLM decides to normalize.
    normalizes = extra.get("mm_device_do_normalize", False) is not False
    if ("worker_cls" in extra or normalizes) and "mm_processor_kwargs" in arguments:
        kept = arguments["mm_processor_kwargs"].items() - image_bytes.PROCESSOR_ARGUMENTS.items()
        arguments = arguments | {"mm_processor_kwargs": dict(kept)}
    ours, theirs = arguments.get(_COMPILATION), extra.get(_COMPILATION, {})
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if _OTHER_CAPTURE_SIZES & (extra.keys() | theirs.keys()):
            ours = {name: value for name, value in ours.items() if name != _CAPTURE_SIZES}
        extra = extra | {_COMPILATION: ours | theirs}
    return arguments | extra


def _has_camera_graphs(options: EngineOptions, checkpoint: Checkpoint, choice: Choice) -> bool:
    """Return whether the engine uses `camera_graphs`.

    They were tested only with Qwen2.5-VL on one GPU. With Qwen3-VL, for which vLLM also has CUDA graphs of the encoder, they are
    used only if ``engine.extra`` sets ``cudagraph_mm_encoder``.
    """
    if options.embedded.gpus != 1 or not choice.native_graphs:
        return False
    compilation = options.embedded.extra_arguments().get(_COMPILATION)
    requested = isinstance(compilation, dict) and compilation.get(_ENCODER_GRAPHS) is True
    return checkpoint.model_type == "qwen2_5_vl" or (checkpoint.model_type == "qwen3_vl" and requested)


def camera_graphs(options: EngineOptions, checkpoint: Checkpoint, max_pixels: int, context: int) -> dict[str, Any]:
    """Return the compilation settings for CUDA graphs of the sizes that cameras send.

    For an image, vLLM uses the smallest graph of the encoder that has enough visual tokens. For the prompt, it uses the smallest
    graph that has enough tokens. Without a graph, the CPU launches each kernel: on an H100, the 3B then computed a text of 1,250
    tokens in 33 ms instead of 17 ms.

    :param context: tokens of the longest prompt.
    """
    cell = checkpoint.cell
    most = min(max_pixels // cell**2, _LARGEST_ENCODER_GRAPH)
    images = {round(width / cell) * round(height / cell) for width, height in _CAMERA_SIZES}
    images = {size for size in images if size < most} | {most}
    return {
        _ENCODER_GRAPHS: True,
        "encoder_cudagraph_token_budgets": sorted(images),
        "encoder_cudagraph_max_vision_items_per_batch": 1,
        _CAPTURE_SIZES: sorted(_decoding_sizes(options.max_num_seqs) | {size for size in _prompt_sizes(most) if size <= context}),
    }


def _decoding_sizes(max_num_seqs: int) -> set[int]:
    """Return vLLM's default capture sizes."""
    largest = min(2 * max_num_seqs, 512)
    return {size for size in (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)) if size <= largest}


def _prompt_sizes(largest_image: int) -> set[int]:
    """Return capture sizes for prompts with at most one new image.

    They have no gaps, because vLLM pads a prompt to the next size, however far it is.
    """
    return set(range(_PROMPT_STEP, largest_image + _TEXT_TOKENS + _PROMPT_STEP, _PROMPT_STEP))


def sends_bytes(checkpoint: Checkpoint, device: str, choice: Choice) -> bool:
    """Return whether images are sent to the worker as bytes. Workers of a platform plugin do not support this."""
    known = checkpoint.model_type in image_bytes.MODEL_TYPES and device in image_bytes.WORKERS
    return known and checkpoint.usual_images and not choice.platform


def reject_unknown(extra: dict[str, Any], known: set[str]) -> None:
    """Reject arguments of ``engine.extra`` that vLLM's engine does not have.

    :raises EngineConfigError: a name is unknown. The message contains the nearest name.
    """
    for name in extra:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise EngineConfigError(f"engine.extra: this version of vLLM has no engine argument {name!r}.{hint}")


def image_cache_mib(options: EngineOptions) -> int:
    """Return the size limit of vLLM's cache of prepared images in MiB, per process.

    The largest image must fit into the cache. Otherwise, older versions of vLLM reject this image.
    """
    largest = options.max_pixels * _BYTES_PER_PIXEL
    return max(options.embedded.image_cache_mib, -(-largest // _MIB) + 1) if options.embedded.image_cache_mib else 0


def asks_for_bytes(arguments: dict[str, Any]) -> bool:
    """Return whether images are sent to the worker as bytes, by the final arguments."""
    if arguments.get("language_model_only"):
        return False  # With this argument, vLLM has no image processor.
    return image_bytes.are_requested(arguments.get("mm_processor_kwargs"))


def environment_for(arguments: dict[str, Any], device: str) -> dict[str, str | None]:
    """Return the environment variables that an engine with these arguments needs."""
    if device == "cpu":
        return cpu.environment(arguments)
    variables: dict[str, str | None] = {"OMP_NUM_THREADS": None}
    if not asks_for_bytes(arguments):
        # By default, vLLM prepares images in one thread.
        variables["OMP_NUM_THREADS"] = str(min(_IMAGE_THREADS, max(1, len(os.sched_getaffinity(0)) // 2)))
    compilation = arguments.get(_COMPILATION)
    if isinstance(compilation, dict) and compilation.get(_ENCODER_GRAPHS):
        variables |= compat.runner_of_encoder_graphs()
    return variables


def check_device_count(options: EngineOptions) -> None:
    """Check that this machine has enough GPUs for the options.

    :raises EngineConfigError: it has fewer.
    """
    import torch

    if options.embedded.distributed_executor_backend == "ray":
        return  # Other machines of the cluster also have GPUs.
    wanted = options.embedded.gpus // options.embedded.nnodes
    present = torch.accelerator.device_count()
    if wanted > present:
        shared = f" / nnodes = {options.embedded.nnodes}" if options.embedded.nnodes > 1 else ""
        raise EngineConfigError(
            f"tensor_parallel_size x pipeline_parallel_size x data_parallel_size{shared} needs {wanted} GPUs, but this machine "
            f"has {present}. Lower engine.tensor_parallel_size."
        )


def log_join_commands(options: EngineOptions, arguments: dict[str, Any]) -> None:
    """Log the commands with which the other machines join the engine."""
    # A folder must have the same path on each machine. A model of the hub has its name, because each machine has its own cache.
    model = arguments["model"] if os.path.isdir(home_expanded(options.model)) else options.model
    nnodes = options.embedded.nnodes
    for rank in range(1, nnodes):
        command = shlex.join(compat.join_command(arguments | {"model": model}, rank))
        _log.warning("Waiting for machine %d of %d. Install this package there and run: %s", rank + 1, nnodes, command)
