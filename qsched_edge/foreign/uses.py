"""Who reads a weight, and whether that can be quantized: the kind of layer and the weight's orientation, or why not."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from qsched_edge.foreign.graph_weights import FLOATS
from qsched_edge.quantize.encode import SMALL
from qsched_edge.quantize.rewrite import TABLE

QUANTIZED = {
    "DequantizeLinear", "QuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "QGemm",
    "MatMulNBits", "MatMulBnb4", "GatherBlockQuantized", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
    "DynamicQuantizeLSTM", "QAttention", "QMoE", "QLinearGlobalAveragePool", "QLinearAdd", "QLinearMul",
}  # fmt: skip


@dataclass(frozen=True)
class Use:
    """`kind` is "linear", "conv" or "embedding"; `transposed`: the graph holds [K, N]. Without a kind, `reason`."""

    kind: str = ""
    transposed: bool = False
    reason: str = ""


def uses_of(value: ir.Value, graph: ir.Graph) -> list[Use]:
    """One Use for each reader of an initializer of `graph`."""
    found = [use_of(value, node, index, graph) for node, index in value.uses()]
    if value.is_graph_output():
        found.append(Use(reason="an output of the graph"))
    return found or [Use(reason="read by nothing")]


def reason_to_leave(value: ir.Value, graph: ir.Graph) -> str:
    """Why a weight is left as it is, or nothing if every reader can read integers."""
    tensor = value.const_value
    assert tensor is not None
    uses = uses_of(value, graph)
    if any(use.reason == "already quantized" for use in uses):
        return "already quantized"
    if tensor.size < SMALL:
        return f"fewer than {SMALL:,} values"
    if tensor.dtype not in FLOATS:
        return f"{tensor.dtype.name}: no float weight"
    if tensor.shape.rank() < 2:
        return "a bias or another vector"
    return next((use.reason for use in uses if not use.kind), "")


def use_of(value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
    if node.graph is not graph:
        return Use(reason="read inside a subgraph (If, Loop or Scan)")
    if node.op_type in QUANTIZED:
        return Use(reason="already quantized")
    if node.domain not in ("", "ai.onnx"):
        return Use(reason=f"read by {node.domain}.{node.op_type}, which has no quantized form here")
    if node.op_type in READERS:
        return READERS[node.op_type](value, node, index, graph)
    return Use(reason=f"read by {node.op_type}, which has no quantized form here")


def rank_of(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()


def matmul_use(value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
    if index == 0:
        return Use(reason="the left operand of MatMul")
    if rank_of(value) not in (2, None):
        return Use(reason="a batch of matrices or a vector in MatMul")
    if rank_of(node.inputs[0]) == 1:
        return Use(reason="multiplied by a vector without a batch axis")
    return Use("linear", transposed=True)


def gemm_use(value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
    if index != 1:
        return Use(reason="Gemm's left operand or bias")
    return Use("linear", transposed=not node.attributes.get_int("transB", 0))


def transpose_use(value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
    """Transpose -> MatMul or Gemm: what its readers agree on, the other way round."""
    uses = uses_of(node.outputs[0], graph)
    use, reason = uses[0], next((use.reason for use in uses if not use.kind), "")
    swapped = list(node.attributes.get_ints("perm", [1, 0])) == [1, 0]
    if len(set(uses)) > 1 or use.kind != "linear" or rank_of(value) != 2 or not swapped:
        return Use(reason=reason or "read by a Transpose whose readers differ")
    return Use("linear", transposed=not use.transposed)


def conv_use(value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
    return Use("conv") if index == 1 else Use(reason=f"{node.op_type}'s input or bias")


def gather_use(value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
    if index != 0 or rank_of(value) != 2 or node.attributes.get_int("axis", 0) != 0:
        return Use(reason="a Gather that is no table of rows")
    if value.shape is not None and prod(value.shape.numpy()) < TABLE:
        return Use(reason=f"a table of fewer than {TABLE:,} values")
    return Use("embedding")


READERS = {
    "MatMul": matmul_use,
    "Gemm": gemm_use,
    "Transpose": transpose_use,
    "Conv": conv_use,
    "ConvTranspose": conv_use,
    "Gather": gather_use,
}
