"""vLLM's output layer with the table's kernels. CUDA graphs do not contain this layer, so it calls the kernels itself."""

import logging
from typing import Any

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

from robobrain_ros.engine.flagos.by_shape.operators import ShapeOperators
from robobrain_ros.engine.flagos.by_shape.table import ROWS

_log = logging.getLogger(__name__)


class TableEmbeddingMethod(UnquantizedEmbeddingMethod):  # type: ignore[misc]
    """Computes an output layer of vLLM with the table's entry for the shape. Without an entry, it uses vLLM's own method."""

    def __init__(self, operators: ShapeOperators) -> None:
        self._operators = operators

    def apply(self, layer: Any, x: Any, bias: Any = None) -> Any:
        """Return the logits: x of shape (rows, k) times the transposed weights of shape (n, k), plus bias."""
        operator = "mm" if bias is None else "addmm"
        product = self._operators.compute(operator, x, layer.weight.t(), bias)
        return super().apply(layer, x, bias) if product is None else product


def use_table(model: torch.nn.Module, operators: ShapeOperators) -> None:
    """Let the table's kernels compute the model's output layer, if its weights are not quantized.

    Each row range is computed once, so that `ShapeOperators.called` contains the layer's entries. If this raises an exception,
    the layer keeps vLLM's method.
    """
    for layer in output_layers(model):
        method = TableEmbeddingMethod(operators)
        try:
            _compute_once(method, layer)
        except Exception as error:  # The engine must start even if this layer fails.
            _log.warning("The output layer stays native: %s: %s", type(error).__name__, error)
        else:
            layer.quant_method = method


def _compute_once(method: TableEmbeddingMethod, layer: Any) -> None:
    weight = layer.weight
    for rows in ROWS:
        method.apply(layer, torch.zeros((rows, weight.shape[1]), dtype=weight.dtype, device=weight.device))


def output_layers(model: torch.nn.Module) -> list[Any]:
    """Return the modules with the name ``lm_head`` in vLLM's models. With tied weights, this is the input embedding."""
    found = (getattr(part, "lm_head", None) for part in model.modules())
    layers = {id(layer): layer for layer in found if type(getattr(layer, "quant_method", None)) is UnquantizedEmbeddingMethod}
    return list(layers.values())


def logits_have_dtype_of_weights(model_config: Any) -> bool:
    """Return whether logits have the dtype of the weights. Otherwise, vLLM does not call the output layer's method."""
    return bool(getattr(model_config, "head_dtype", model_config.dtype) == model_config.dtype)
