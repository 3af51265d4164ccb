"""Make it possible to import a CUDA build of torchvision together with a CPU build of torch.

The import of torchvision registers shapes for operators that only its CUDA library defines. Without these operators, the import
fails. This module defines the two operators. They are never called, because vLLM uses only the transforms of torchvision. If the
module is needed, scripts/setup_env.py copies it into the environment, with a .pth file that imports it in every process, because
vLLM starts its own processes.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any


class DefineOperators(MetaPathFinder):
    """Waits for the first import of torchvision, so that other programs do not import torch."""

    library: Any

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Define the operators when torchvision is imported. Always return None, so that other finders find the module."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            torch_library: Any = torch.library
            # The definitions exist as long as this object.
            DefineOperators.library = torch_library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                DefineOperators.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, DefineOperators())
