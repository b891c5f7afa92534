"""Which operator reads a weight: the one place that quantizing, inspecting and observing a graph ask."""

from __future__ import annotations

import onnx_ir as ir

from qsched_edge.quantize.layers.kind import IntegerOperand, LayerKind, Use
from qsched_edge.quantize.layers.registry import layer_kind, layer_kinds

DEQUANTIZED = IntegerOperand(0, (1, 2))  # of DequantizeLinear, whose result any kind of layer may read
READ_INTEGERS = {  # operators of no kind here that are a sign of quantization all the same
    "DequantizeLinear", "QuantizeLinear", "MatMulBnb4", "DynamicQuantizeLSTM", "QAttention", "QMoE",
    "QLinearGlobalAveragePool", "QLinearAdd", "QLinearMul",
}  # fmt: skip
HANDED_ON = ("Cast", "Transpose", "Reshape", "Identity", "DequantizeLinear")  # what a layer reads is still its weight


def uses_of(value: ir.Value, graph: ir.Graph) -> list[Use]:
    """One Use for each reader of an initializer of `graph`."""
    found = [use_of(value, node, index, graph) for node, index in value.uses()]
    if value.is_graph_output():
        found.append(Use(reason="an output of the graph"))
    return found or [Use(reason="read by nothing")]


def use_of(value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
    if node.graph is not graph:
        return Use(reason="read inside a subgraph (If, Loop or Scan)")
    if node.op_type in READ_INTEGERS or any(node.op_type in kind.integer_operators for kind in layer_kinds()):
        return Use(reason="already quantized")
    if node.domain not in ("", "ai.onnx"):
        return Use(reason=f"read by {node.domain}.{node.op_type}, which has no quantized form here")
    for kind in layer_kinds():
        if node.op_type in kind.operators or node.op_type in kind.between:
            return kind.use(value, node, index, graph)
    return Use(reason=f"read by {node.op_type}, which has no quantized form here")


def kind_of(value: ir.Value, graph: ir.Graph) -> LayerKind:
    """The kind that all readers of a weight agree on, if the weight lies as that kind's operators want it."""
    kinds = {None if use.transposed else use.kind for use in uses_of(value, graph)}
    kind = kinds.pop() if len(kinds) == 1 else None
    return kind or layer_kind("other")


def kind_behind(value: ir.Value) -> LayerKind:
    """The kind of the first layer that reads a value, directly or converted, whether or not it can be quantized."""
    for node, index in value.uses():
        if node.op_type in HANDED_ON and index == 0:
            return kind_behind(node.outputs[0])
        for kind in layer_kinds():
            if index in kind.operators.get(node.op_type, ()):
                return kind
    return layer_kind("other")


def integer_reader(node: ir.Node) -> tuple[LayerKind, IntegerOperand] | None:
    """The kind of layer whose integers `node` reads, and where; None for all other operators."""
    if node.op_type == "DequantizeLinear":
        return kind_behind(node.outputs[0]), DEQUANTIZED
    for kind in layer_kinds():
        if node.op_type in kind.integer_operators:
            return kind, kind.integer_operators[node.op_type]
    return None


def rounds_inputs(node: ir.Node, kind: LayerKind) -> bool:
    """Whether the other operand of a layer whose integers `node` reads is 8 bits wide too."""
    if node.op_type != "DequantizeLinear":
        return kind.rounds_inputs(node)
    layers = [reader for reader, _ in node.outputs[0].uses()]
    if len(layers) == 1 and layers[0].op_type in HANDED_ON:
        layers = [reader for reader, _ in layers[0].outputs[0].uses()]
    producers = [layer.inputs[0].producer() for layer in layers if layer.inputs and layer.inputs[0] is not None]
    return any(p is not None and p.op_type == "DequantizeLinear" and p is not node for p in producers)
