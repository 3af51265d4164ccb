"""vLLM's GPU worker with operators by shape. Nothing uses it unless ``engine.extra`` names it; untested on a GPU::

    engine.extra: '{"worker_cls": "robobrain_ros.engine.flagos.by_shape.vllm_worker.TableWorker"}'

vLLM imports this module in its workers.
"""

import logging
from typing import Any

from vllm.v1.worker.gpu_worker import Worker

from robobrain_ros.engine.flagos.by_shape import start as flagos_start
from robobrain_ros.engine.flagos.by_shape.start import Started

_log = logging.getLogger(__name__)


class WithTable:
    """Part of a worker class: after the model is loaded, it registers what a table has for the model's weights.

    At that time nothing is captured, and vLLM has not measured yet how much memory is left for the cache.
    """

    matrix_products = Started(None, "The model is not loaded.")

    def load_model(self, *arguments: Any, **options: Any) -> None:
        """See vLLM's worker."""
        parent: Any = super()
        parent.load_model(*arguments, **options)
        self.matrix_products = self._start()
        _log.info("%s", self.matrix_products.why)

    def matrix_product_details(self) -> dict[str, str]:
        """For ``collective_rpc``."""
        return self.matrix_products.details()

    def _start(self) -> Started:
        worker: Any = self
        config = worker.vllm_config.model_config
        if config.enforce_eager:
            return Started(None, "Native matrix products: without CUDA graphs a launch by Triton takes longer than it saves.")
        return flagos_start.start(self.weight_sizes(), str(config.dtype).removeprefix("torch."))

    def weight_sizes(self) -> list[tuple[int, int]]:
        """Sizes (k, n) of the loaded matrices, each once, without those that are quantized."""
        worker: Any = self
        dtype = worker.vllm_config.model_config.dtype
        matrices = (part for part in worker.get_model().parameters() if part.dim() == 2 and part.dtype is dtype)
        return sorted({(part.shape[1], part.shape[0]) for part in matrices})


class TableWorker(WithTable, Worker):  # type: ignore[misc]
    """The worker of one GPU."""
