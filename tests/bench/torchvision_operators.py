"""Makes torchvision importable beside a torch without CUDA, for transformers, which imports it where it is.

Its package is compiled for torch with CUDA. Beside another one its operators are missing, so that importing it
fails, and importing transformers' models with it. Declared without a kernel, they will do as long as nobody calls
them.
"""

import importlib.util
import sys

import torch

OPERATORS: list[torch.library.Library] = []
"""What was declared, which lasts as long as this list. Empty if torchvision is complete, or absent."""


def declare() -> None:
    """Declare the operators that an import of torchvision refers to, if it fails without."""
    if importlib.util.find_spec("torchvision") is None or OPERATORS:
        return
    try:
        import torchvision  # noqa: F401  # whether it can be
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        OPERATORS.append(library)


declare()
