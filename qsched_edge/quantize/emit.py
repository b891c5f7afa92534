"""The operators that read a stored weight, in the place of the ones that read the float."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from qsched_edge.precision import Scheme
from qsched_edge.quantize.layout import LAYOUTS

CONTRIB = "com.microsoft"
INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: inputs are rounded to int8 in blocks where the kernel can


@dataclass(frozen=True)
class Site:
    """A weight in its graph; `order` ranks the graph's nodes as they stand."""

    graph: ir.Graph
    order: dict[ir.Node, int]
    value: ir.Value
    scheme: Scheme

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.value.shape is not None
        return tuple(int(d) for d in self.value.shape.numpy())

    @property
    def dtype(self) -> ir.DataType:
        """What the graph computes with: FLOAT or FLOAT16."""
        return ir.DataType.FLOAT16 if self.value.dtype == ir.DataType.FLOAT16 else ir.DataType.FLOAT

    def first(self, nodes: Iterable[ir.Node]) -> ir.Node:
        return min(nodes, key=lambda node: self.order[node])

    def readers(self) -> list[ir.Node]:
        return sorted({node for node, _ in self.value.uses()}, key=lambda node: self.order[node])

    def register(self, *values: ir.Value) -> None:
        for value in values:
            self.graph.register_initializer(value)

    def widened(self, stored: ir.Value, before: ir.Node) -> ir.Value:
        """A stored float in the graph's type; the Cast is folded when onnxruntime loads the graph."""
        self.register(stored)
        if stored.dtype == self.dtype:
            return stored
        cast = make_node("Cast", [stored], {"to": self.dtype.value})
        self.graph.insert_before(before, cast)
        return cast.outputs[0]


def emit_linear(site: Site, parts: list[ir.Value]) -> None:
    """x W^T (+ bias) as com.microsoft.MatMulNBits (+ Add)."""
    q, scale, *zero = parts
    rows, width = site.shape
    layout = LAYOUTS["linear"](site.scheme, width)
    transposes = [node for node in site.readers() if node.op_type == "Transpose"]
    products = [node for node in site.readers() if node.op_type == "Gemm"]
    products += [node for transpose in transposes for node, _ in transpose.outputs[0].uses()]
    scale = site.widened(scale, site.first(products))
    site.register(q, *zero)
    attributes = {"K": width, "N": rows, "bits": layout.bits, "block_size": layout.block}
    if site.scheme.activation_bits == 8:
        attributes["accuracy_level"] = INT8_ACTIVATIONS
    for node in products:
        product = make_node("MatMulNBits", [node.inputs[0], q, scale, *zero], attributes, CONTRIB)
        nodes = [product]
        if node.op_type == "Gemm" and len(node.inputs) > 2:
            nodes.append(make_node("Add", [product.outputs[0], node.inputs[2]]))
        site.order.update(dict.fromkeys(nodes, site.order[node]))
        replace(site.graph, node, nodes)
    for transpose in transposes:
        site.graph.remove(transpose, safe=True)


def emit_conv(site: Site, parts: list[ir.Value]) -> None:
    """DequantizeLinear, in blocks of [O, I kh kw] with a Reshape or by channel, before each Conv or ConvTranspose."""
    q, scale, zero, *shape = parts
    convs = site.readers()
    scale = site.widened(scale, convs[0])
    site.register(q, zero, *shape)
    block = LAYOUTS["conv"](site.scheme, prod(site.shape[1:])).block
    attributes = {"axis": 1, "block_size": block} if block else {"axis": 0}
    nodes = [make_node("DequantizeLinear", [q, scale, zero], attributes)]
    if shape:
        nodes.append(make_node("Reshape", [nodes[0].outputs[0], *shape]))
    site.graph.insert_before(convs[0], nodes)
    for conv in convs:
        conv.replace_input_with(1, nodes[-1].outputs[0])
        if rounds_activations(site):
            site.graph.insert_before(conv, rounded := rounding(conv.inputs[0]))
            conv.replace_input_with(0, rounded[-1].outputs[0])


def rounds_activations(site: Site) -> bool:
    """DynamicQuantizeLinear takes float32 only: convolutions of a float16 graph keep their inputs."""
    return site.scheme.activation_bits == 8 and site.dtype == ir.DataType.FLOAT


def rounding(x: ir.Value | None) -> list[ir.Node]:
    """x rounded to uint8 with one scale and zero point for the tensor, found anew in every run."""
    quantize = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
    return [quantize, make_node("DequantizeLinear", list(quantize.outputs))]


def emit_embedding(site: Site, parts: list[ir.Value]) -> None:
    """Rows of a table as com.microsoft.GatherBlockQuantized."""
    q, scale, zero = parts
    layout = LAYOUTS["embedding"](site.scheme, site.shape[1])
    gathers = site.readers()
    scale = site.widened(scale, gathers[0])
    site.register(q, zero)
    attributes = {"bits": layout.bits, "block_size": layout.block, "gather_axis": 0, "quantize_axis": 1}
    for node in gathers:
        rows = make_node("GatherBlockQuantized", [q, node.inputs[1], scale, zero], attributes, CONTRIB)
        site.order[rows] = site.order[node]
        replace(site.graph, node, [rows])


def emit_float(site: Site, parts: list[ir.Value]) -> None:
    """The float itself; float16 in a float32 graph goes through a Cast that onnxruntime folds at load."""
    (stored,) = parts
    site.value.replace_all_uses_with(site.widened(stored, site.readers()[0]))


EMITTERS = {"linear": emit_linear, "conv": emit_conv, "embedding": emit_embedding, "other": emit_float}


def make_node(
    op_type: str, inputs: Iterable[ir.Value | None], attributes: dict[str, int] | None = None, domain: str = ""
) -> ir.Node:
    return ir.node(op_type, list(inputs), attributes or {}, domain=domain)


def replace(graph: ir.Graph, node: ir.Node, nodes: list[ir.Node]) -> None:
    """Put `nodes` in the place of `node`; the last one's output takes over its name and its readers."""
    graph.insert_before(node, nodes)
    old, new = node.outputs[0], nodes[-1].outputs[0]
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, new.shape, new.type = old.name, old.shape, old.type
    graph.remove(node, safe=True)


def first_of(graph: ir.Graph, nodes: list[ir.Node]) -> ir.Node:
    wanted = set(nodes)
    return next(node for node in graph if node in wanted)
