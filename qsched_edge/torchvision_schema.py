"""Lets a CPU build of torch work with the torchvision wheel of PyPI, which is a CUDA build.

That torchvision registers shape rules for two operators its binary cannot define beside a CPU torch, and its import
fails. Declaring the two schemas first is enough: transforms and models work, `nms` itself stays unusable.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any


@cache
def declare() -> Any:
    """Make `import torchvision` work if it does not; call before diffusers, transformers or open_clip are imported."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return None
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        return declare_operators()
    return None


def declare_operators() -> Any:
    import torch

    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # the declaration lasts as long as this object, and declare's cache keeps it
