"""The methods by name; each is `(weight float32 [N, K], Scheme, Moments or None) -> QuantizedMatrix`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import numpy as np

from qsched_edge.errors import QuantizeError, unknown_name
from qsched_edge.quantize.moments import Moments
from qsched_edge.quantize.scheme import QuantizedMatrix, Scheme

Method = Callable[[np.ndarray, Scheme, Moments | None], QuantizedMatrix]

METHODS = {
    "rtn": "qsched_edge.quantize.neural_compressor:round_to_nearest",
}


def method(name: str) -> Method:
    if name not in METHODS:
        raise QuantizeError(unknown_name("quantization method", name, METHODS))
    module, function = METHODS[name].split(":")
    return getattr(import_module(module), function)
