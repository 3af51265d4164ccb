"""vLLM's GPU worker with matrix products by shape. vLLM imports this module in its workers."""

import logging
from typing import Any

import vllm.envs

from robobrain_ros.engine.embedded.vllm_gpu_worker import GpuWorker
from robobrain_ros.engine.flagos.by_shape import output_layer, report
from robobrain_ros.engine.flagos.by_shape import start as flagos_start
from robobrain_ros.engine.flagos.by_shape.start import StartResult

_log = logging.getLogger(__name__)


class TableWorkerMixin:
    """Mixin of a worker class: CUDA graphs and the output layer use the matrix products by shape.

    `load_model` checks the operators of the table directly after loading the model. At this time, vLLM has not yet captured CUDA
    graphs or measured the free memory for the KV cache.
    """

    matrix_products = StartResult(None, "The model is not loaded.")

    def load_model(self, *arguments: Any, **options: Any) -> None:
        """See vLLM's worker."""
        parent: Any = super()
        parent.load_model(*arguments, **options)
        # If the check crashes this process, this report shows that the check had begun.
        report.write(report.TableReport(in_use=True))
        self.matrix_products = self._start_safely()
        self._report()

    def compile_or_warm_up_model(self, *arguments: Any, **options: Any) -> Any:
        """See vLLM's worker, which captures CUDA graphs here."""
        parent: Any = super()
        with self.matrix_products.installed():
            result = parent.compile_or_warm_up_model(*arguments, **options)
        self._report()
        return result

    def _report(self) -> None:
        started = self.matrix_products
        report.write(report.TableReport(started.operators is not None, started.names, started.details()))

    def _start_safely(self) -> StartResult:
        try:
            started = self._start()
            if started.operators is not None:
                worker: Any = self
                if output_layer.logits_have_dtype_of_weights(worker.vllm_config.model_config):
                    output_layer.use_table(worker.get_model(), started.operators)
                started.operators.on_failure = self._report
        except Exception as error:  # The engine must start even if the table fails.
            _log.warning("Matrix products stay native.", exc_info=True)
            return StartResult(None, f"Native matrix products: {type(error).__name__}: {error}")
        return started

    def _start(self) -> StartResult:
        worker: Any = self
        config = worker.vllm_config.model_config
        if vllm.envs.VLLM_BATCH_INVARIANT:
            return StartResult(None, "Native matrix products: the table's kernels are not batch invariant.")
        if config.enforce_eager:
            return StartResult(
                None, "Native matrix products: without CUDA graphs, launching Triton kernels costs more time than they save."
            )
        return flagos_start.start(self.weight_sizes(), str(config.dtype).removeprefix("torch."))

    def weight_sizes(self) -> list[tuple[int, int]]:
        """Return the different sizes (k, n) of the loaded matrices, except quantized matrices."""
        worker: Any = self
        dtype = worker.vllm_config.model_config.dtype
        matrices = (part for part in worker.get_model().parameters() if part.dim() == 2 and part.dtype is dtype)
        return sorted({(part.shape[1], part.shape[0]) for part in matrices})


class TableWorker(TableWorkerMixin, GpuWorker):
    """vLLM's worker for one GPU, with images as bytes and matrix products by shape."""
