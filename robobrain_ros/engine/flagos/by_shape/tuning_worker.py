"""vLLM's GPU worker for tune_flagos: it records the model's matrix products, and measures kernels for them.

vLLM imports this module in its workers. The engine's CUDA graphs contain PyTorch's operators.
"""

import logging
import time
from typing import Any

import torch

from robobrain_ros.engine.embedded.vllm_gpu_worker import GpuWorker
from robobrain_ros.engine.flagos.by_shape import check, output_layer, start
from robobrain_ros.engine.flagos.by_shape.recording import Recorder
from robobrain_ros.engine.flagos.by_shape.search import Candidate, Timed, Trial
from robobrain_ros.engine.flagos.by_shape.shape_measurement import CountedShape, MeasuredShape, ShapeRequest, WorkerShapes
from robobrain_ros.engine.flagos.by_shape.start import Device
from robobrain_ros.engine.flagos.by_shape.table import AUTOTUNED, DTYPES, MOST_ROWS, ROWS, ShapeClass

_log = logging.getLogger(__name__)


class TuningWorkerMixin:
    """Mixin of a worker class. vLLM's ``collective_rpc`` calls `shape_classes` and `measure_shape`."""

    _recorded: frozenset[ShapeClass] = frozenset()
    _device: Device | None = None
    _obstacle = ""

    def compile_or_warm_up_model(self, *arguments: Any, **options: Any) -> Any:
        """See vLLM's worker, which captures CUDA graphs here. They contain the products of each capture size."""
        parent: Any = super()
        try:
            self._device = self._find_device()
            recorder = Recorder(self._device.key)
            recorder.install()
        except Exception as error:  # The engine must start even if nothing can be recorded.
            self._device, self._obstacle = None, f"{type(error).__name__}: {error}"
            return parent.compile_or_warm_up_model(*arguments, **options)
        try:
            result = parent.compile_or_warm_up_model(*arguments, **options)
        finally:
            recorder.remove()
        self._recorded = frozenset(recorder.classes)
        return result

    def _find_device(self) -> Device:
        return start.this_gpu()

    def shape_classes(self) -> dict[str, Any]:
        """Return `WorkerShapes` as plain values: the shape classes of the CUDA graphs and of the output layer."""
        device = self._device
        if device is None:
            return WorkerShapes("", "", "", (), self._obstacle or "The engine has no CUDA graphs.").values
        shapes = self._recorded | self._of_output_layers()
        counted = (CountedShape(shape, len(self._weights(shape))) for shape in sorted(shapes, key=lambda shape: shape.name))
        return WorkerShapes(device.name, str(device.torch), str(device.triton), tuple(counted)).values

    def _of_output_layers(self) -> set[ShapeClass]:
        """Return the shape classes of the output layer. CUDA graphs do not contain this layer."""
        worker: Any = self
        config = worker.vllm_config
        most = min(MOST_ROWS, config.scheduler_config.max_num_seqs)
        below = (0, *ROWS)
        rows = [end for end, least in zip(ROWS, below, strict=False) if least < most]
        dtype = str(config.model_config.dtype).removeprefix("torch.")
        if dtype not in DTYPES or not output_layer.logits_have_dtype_of_weights(config.model_config):
            return set()
        layers = output_layer.output_layers(worker.get_model())
        return {ShapeClass("mm", dtype, end, layer.weight.shape[1], layer.weight.shape[0]) for layer in layers for end in rows}

    def _weights(self, shape: ShapeClass) -> list[Any]:
        """Return the model's weights of this size as matrices (k, n)."""
        worker: Any = self
        size, dtype = (shape.n, shape.k), getattr(torch, shape.dtype)
        found = (part for part in worker.get_model().parameters() if tuple(part.shape) == size and part.dtype is dtype)
        return [part.data.t() for part in found if part.data.is_contiguous()]

    def measure_shape(self, values: dict[str, Any]) -> dict[str, Any]:
        """Measure a shape class.

        :param values: a `ShapeRequest` as plain values.
        :returns: a `MeasuredShape` as plain values. If measuring fails, it has no entry and the exception as a fault.
        """
        request = ShapeRequest.of(values)
        try:
            with torch.inference_mode():
                return self._measure(request).values
        except Exception as error:
            _log.warning("%s cannot be measured.", request.shape.name, exc_info=True)
            return MeasuredShape(None, 0.0, faults=(f"{type(error).__name__}: {error}"[:300],)).values

    def _measure(self, request: ShapeRequest) -> MeasuredShape:
        device, shape = self._device, request.shape
        assert device is not None
        assert device.timer is not None
        end = time.monotonic() + request.seconds
        trial = Trial(shape, self._cold_weights(shape), device.implementations, device.timer)
        candidates = [Candidate("skinny", launch) for launch in request.launches]
        timed = Timed()
        trial.time(candidates, timed, lambda: time.monotonic() < end)
        if request.neighbours:
            trial.time_neighbours(timed, lambda: time.monotonic() < end)
        if request.flag_gems:
            trial.time([Candidate("flag_gems", AUTOTUNED)], timed)
        best = timed.first_near(candidates)
        faults = tuple(f"{candidate.implementation} {candidate.launch}: {how}" for candidate, how in timed.faults.items())
        if best is None:
            return MeasuredShape(None, trial.native_us(), tried=len(timed.tried), faults=faults)
        confirmed = trial.confirm(best)
        entry = confirmed.entry(shape) if confirmed.faster else None
        return MeasuredShape(
            entry, confirmed.native_us, confirmed.us, confirmed.ratio, confirmed.low, confirmed.high, len(timed.tried), faults
        )

    def _cold_weights(self, shape: ShapeClass) -> list[Any]:
        """Return enough matrices (k, n) that the GPU's cache does not contain the next one: weights of the model, then random."""
        device: Any = self._device
        dtype = getattr(torch, shape.dtype)
        count = check.cold_copies(shape.k * shape.n * dtype.itemsize)
        weights = self._weights(shape)[:count]
        missing = range(count - len(weights))
        return weights + [torch.randn((shape.n, shape.k), dtype=dtype, device=device.place).t() for _ in missing]


class TuningWorker(TuningWorkerMixin, GpuWorker):
    """vLLM's worker for one GPU that measures matrix products."""
