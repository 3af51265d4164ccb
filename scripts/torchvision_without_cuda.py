"""Lets a CUDA build of torchvision import beside a CPU build of torch.

Its import registers shapes for operators that only its CUDA library defines, and fails without them. Defining the two is
enough: vLLM uses torchvision's transforms, never these operators. scripts/setup_env.py copies this file into the environment,
only where it is needed, with a .pth file that imports it in every process, since vLLM starts processes of its own.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any


class DefineOperators(MetaPathFinder):
    """Waits for the first import of torchvision, so that programs without it do not pay for importing torch."""

    library: Any

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Never finds anything, but defines the operators when asked for torchvision."""
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            torch_library: Any = torch.library
            DefineOperators.library = torch_library.Library("torchvision", "DEF")  # Its definitions live as long as it does.
            for name in ("nms", "qnms"):
                DefineOperators.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, DefineOperators())
