"""Why a weight is left as it is: what reads it, its values, or the bytes that it would take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from qsched_edge.foreign.graph_weights import FLOATS, extremes
from qsched_edge.precision import Scheme
from qsched_edge.quantize.layers.kind import Use
from qsched_edge.quantize.layers.other import SMALL_WEIGHT
from qsched_edge.quantize.layers.readers import uses_of

LARGEST_HALF = float(np.finfo(np.float16).max)
SMALLEST_SCALE = 2.0**-22  # four times float16's smallest number; below, scales are too coarse to fit the values


def reason_by_readers(value: ir.Value, graph: ir.Graph) -> str:
    """Why a weight cannot have integers, or nothing if every reader can read them."""
    tensor = value.const_value
    assert tensor is not None
    uses = uses_of(value, graph)
    if any(use.reason == "already quantized" for use in uses):
        return "already quantized"
    if tensor.size < SMALL_WEIGHT:
        return f"fewer than {SMALL_WEIGHT:,} values"
    if tensor.dtype not in FLOATS:
        return f"{tensor.dtype.name}: no float weight"
    if tensor.shape.rank() < 2:
        return "a bias or another vector"
    return next((use.reason for use in uses if not use.kind), "")


def reason_by_place(value: ir.Value, graph: ir.Graph) -> str:
    """Why a weight cannot be halved, or nothing: only float32 weights that the graph itself reads can."""
    tensor = value.const_value
    assert tensor is not None
    if tensor.dtype != ir.DataType.FLOAT:
        return f"{tensor.dtype.name}: no float32 weight"
    if tensor.size < SMALL_WEIGHT:
        return f"fewer than {SMALL_WEIGHT:,} values"
    if not value.uses():
        return "read by nothing"
    if value.is_graph_output():
        return "an output of the graph"
    if any(node.graph is not graph for node, _ in value.uses()):
        return "read inside a subgraph (If, Loop or Scan)"
    return ""


def reason_by_values(tensor: ir.TensorProtocol, scheme: Scheme) -> str:
    """Why the values cannot be stored, or nothing; reads all of them, in pieces."""
    low, high = extremes(tensor)
    if not np.isfinite(low + high):
        return "holds values that are not finite"
    if not scheme.is_integer:
        return "beyond float16's range" if max(-low, high) > LARGEST_HALF else ""
    scale = largest_scale(low, high, scheme)
    if scale > LARGEST_HALF:
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
        use.kind.stored_bytes(shape[::-1] if use.transposed else shape, scheme)
        for use in dict.fromkeys(uses)
        if use.kind
    )
    return "would take more bytes" if needed >= tensor.nbytes else ""
