"""How much memory a graph asks for by what stands in it: constant shapes, ranges, pads, scales, values joined to
themselves. Shapes that are computed while the graph runs are not followed."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qsched_runtime.wire import Field, WireError, numbers

LARGEST_SHAPE = 2**26  # values that a constant shape may ask for: as many as pixels in one call
WIDEST = 4096  # pads, strides and output sizes that stand in a graph
LARGEST_SCALE = 1024  # of a resize, all axes together
LONGEST_RANGE = 2**24
MOST_JOINED = 4096  # times that a value may be joined to itself, over all operators between

SHAPES = {"Expand": 1, "ConstantOfShape": 0, "Tile": 1, "Reshape": 1}  # operator -> the input that is a shape
SPATIAL = {"Conv", "ConvInteger", "ConvTranspose", "QLinearConv", "AveragePool", "DepthToSpace", "SpaceToDepth"}
WATCHED = {*SHAPES, *SPATIAL, "Resize", "Pad", "Range"}
NEW = {  # what these give has a size of its own
    "ArgMax", "ArgMin", "Attention", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "Einsum", "Expand",
    "Gather", "GatherBlockQuantized", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "MatMul",
    "MatMulInteger", "MatMulNBits", "MultiHeadAttention", "QLinearConv", "QLinearMatMul", "Range", "ReduceL",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Shape", "Size", "Slice", "Split",
}  # fmt: skip
FORMATS = {1: "f", 6: "i", 7: "q", 11: "d"}  # ONNX's data types whose constants are read
TYPED = {4: 1, 5: 6, 7: 7, 10: 11}  # a tensor's field -> the data type that it holds
SMALL = 64  # bytes of a constant that may be a shape


@dataclass(frozen=True)
class WatchedNode:
    """A node whose constants say how much it allocates; `widest` is the largest number of its attributes."""

    operator: str
    inputs: tuple[str, ...]
    widest: int


def small_values(data: bytes, kind: int, raw: Field | None, typed: Sequence[Field]) -> list[float] | None:
    """The values of a tensor as small as a shape; None for any other."""
    if kind not in FORMATS:
        return None
    fields = [raw] if raw is not None else [part for part in typed if TYPED.get(part.number) == kind]
    if len(fields) > SMALL or sum(part.end - part.start for part in fields) > (SMALL if raw is not None else 200):
        return None
    if raw is None and kind in (6, 7):
        return [float(v) for part in fields for v in numbers(data, part)]
    found: list[float] = []
    for part in fields:
        size = struct.calcsize(FORMATS[kind])
        usable = (part.end - part.start) // size * size
        found += [v for (v,) in struct.iter_unpack(f"<{FORMATS[kind]}", data[part.start : part.start + usable])]
    return found


def check_node(node: WatchedNode, constants: Mapping[str, Sequence[float]]) -> None:
    """WireError for a node whose constants ask for more than any picture takes."""
    given = [constants.get(name) for name in node.inputs]
    if node.operator in SPATIAL and node.widest > WIDEST:
        raise WireError(f"{node.operator} has pads, strides or sizes of {node.widest}, larger than any picture's")
    if node.operator in SHAPES and len(given) > SHAPES[node.operator]:
        check_shape(node.operator, given[SHAPES[node.operator]])
    if node.operator == "Resize":
        check_shape(node.operator, given[3] if len(given) > 3 else None)
        scales = given[2] if len(given) > 2 else None
        if scales and not math.prod(max(1.0, s) for s in scales) <= LARGEST_SCALE:
            raise WireError(f"Resize by {scales[:8]}, which makes it larger than any picture")
    if node.operator == "Pad" and len(given) > 1 and given[1] and max(map(abs, given[1])) > WIDEST:
        raise WireError(f"Pad by {given[1][:8]}, which makes it larger than any picture")
    if node.operator == "Range":
        check_range(given)


def check_shape(operator: str, values: Sequence[float] | None) -> None:
    if values is not None and math.prod(max(1, v) for v in values) > LARGEST_SHAPE:
        shape = [int(v) for v in values[:8]]
        raise WireError(f"{operator} to the shape {shape}, which is larger than any picture's")


def check_range(given: Sequence[Sequence[float] | None]) -> None:
    """Its length where all is constant; else no step may be so small that any limit is far."""
    start, limit, delta = ([*given, None, None, None][i] for i in range(3))
    if delta and abs(delta[0]) < 1e-3:
        raise WireError(f"Range in steps of {delta[0]}")
    if start and limit and delta and not abs(limit[0] - start[0]) / abs(delta[0]) <= LONGEST_RANGE:
        raise WireError(f"Range from {start[0]} to {limit[0]} in steps of {delta[0]}, which is longer than any picture")
    if limit and not abs(limit[0]) <= LONGEST_RANGE:
        raise WireError(f"Range to {limit[0]}, which is longer than any picture")


def joined(operator: str, inputs: Sequence[str], before: Mapping[str, int]) -> int:
    """How many times the smallest of its parts an operator's result may be, by what its inputs were."""
    sizes = [before.get(name, 1) for name in inputs]
    if operator in NEW:
        return 1
    found = sum(sizes) if operator == "Concat" else max(sizes, default=1)
    if found > MOST_JOINED:
        raise WireError(f"values are joined {found} times over, which no picture needs")
    return found
