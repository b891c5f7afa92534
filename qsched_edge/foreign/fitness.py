"""Whether a scheme can hold a weight: its values, and the bytes that it would take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from qsched_edge.foreign.graph_weights import extremes
from qsched_edge.foreign.uses import Use
from qsched_edge.precision import Scheme
from qsched_edge.quantize.encode import stored_bytes

LARGEST = float(np.finfo(np.float16).max)
SMALLEST_SCALE = 2.0**-22  # four times float16's smallest number; below, scales are too coarse to fit the values


def reason_by_values(tensor: ir.TensorProtocol, scheme: Scheme) -> str:
    """Why the values cannot be stored, or nothing; reads all of them, in pieces."""
    low, high = extremes(tensor)
    if not np.isfinite(low + high):
        return "holds values that are not finite"
    if not scheme.is_integer:
        return "beyond float16's range" if max(-low, high) > LARGEST else ""
    scale = largest_scale(low, high, scheme)
    if scale > LARGEST:
        return "too large for float16 scales"
    return "too small for float16 scales" if 0 < scale < SMALLEST_SCALE else ""


def largest_scale(low: float, high: float, scheme: Scheme) -> float:
    """Of a group that holds the smallest and the largest value."""
    if scheme.symmetric:
        return max(-low, high) / (2 ** (scheme.weight_bits - 1) - 1)
    return (max(high, 0.0) - min(low, 0.0)) / (2**scheme.weight_bits - 1)


def reason_by_bytes(tensor: ir.TensorProtocol, uses: Iterable[Use], scheme: Scheme) -> str:
    """Why there is nothing to gain, or nothing: short rows take a whole block each, and each use has its own copy."""
    shape = tuple(int(d) for d in tensor.shape.numpy())
    needed = sum(
        stored_bytes(use.kind, shape[::-1] if use.transposed else shape, scheme) for use in dict.fromkeys(uses)
    )
    return "would take more bytes" if needed >= tensor.nbytes else ""
