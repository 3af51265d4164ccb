"""vLLM's GPU worker with matrix products by shape. vLLM imports this module in its workers."""

from typing import Any

import vllm.envs

from robobrain_ros.engine.embedded.vllm_gpu_worker import GpuWorker
from robobrain_ros.engine.flagos.by_shape import output_layer, report
from robobrain_ros.engine.flagos.by_shape import start as flagos_start
from robobrain_ros.engine.flagos.by_shape.start import Started


class WithTable:
    """Part of a worker class: CUDA graphs and the output layer use what a table has for the model's weights.

    The table is checked after the model is loaded. At that time nothing is captured, and vLLM has not measured yet how much
    memory is left for the cache.
    """

    matrix_products = Started(None, "The model is not loaded.")

    def load_model(self, *arguments: Any, **options: Any) -> None:
        """See vLLM's worker."""
        parent: Any = super()
        parent.load_model(*arguments, **options)
        # If the check of the table ends this process, the report shows that it had begun.
        report.write(report.TableReport(in_use=True))
        self.matrix_products = self._start()
        if self.matrix_products.operators is not None:
            worker: Any = self
            output_layer.use_table(worker.get_model(), self.matrix_products.operators)
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

    def _start(self) -> Started:
        worker: Any = self
        config = worker.vllm_config.model_config
        if vllm.envs.VLLM_BATCH_INVARIANT:
            return Started(None, "Native matrix products: the table's kernels are not batch invariant.")
        if config.enforce_eager:
            return Started(None, "Native matrix products: without CUDA graphs a launch by Triton takes longer than it saves.")
        return flagos_start.start(self.weight_sizes(), str(config.dtype).removeprefix("torch."))

    def weight_sizes(self) -> list[tuple[int, int]]:
        """Sizes (k, n) of the loaded matrices, each once, without those that are quantized."""
        worker: Any = self
        dtype = worker.vllm_config.model_config.dtype
        matrices = (part for part in worker.get_model().parameters() if part.dim() == 2 and part.dtype is dtype)
        return sorted({(part.shape[1], part.shape[0]) for part in matrices})


class TableWorker(WithTable, GpuWorker):
    """The worker of one GPU."""
