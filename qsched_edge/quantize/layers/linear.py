"""Linear layers: x W^T (+ bias), whose integers com.microsoft.MatMulNBits reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

import onnx_ir as ir

from qsched_edge.precision import CHANNEL, GROUP_SIZES, Scheme
from qsched_edge.quantize.emit import CONTRIB, Site, first_of, make_node, replace_node
from qsched_edge.quantize.encode import WeightRows, laid_out
from qsched_edge.quantize.integers import pack
from qsched_edge.quantize.layers.kind import IntegerOperand, LayerKind, Use, rank_of
from qsched_edge.quantize.layers.readers import uses_of
from qsched_edge.quantize.layout import BlockLayout
from qsched_edge.quantize.store import Packed

INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: inputs are rounded to int8 in blocks where the kernel can


class Linear(LayerKind):
    """A weight [N, K] behind a Transpose before MatMul, or of a Gemm with transB."""

    name, noun, multiplies = "linear", "a linear layer", True
    operators: ClassVar = {"MatMul": (0, 1), "Gemm": (1,)}
    between: ClassVar = ("Transpose",)
    integer_operators: ClassVar = {
        "MatMulNBits": IntegerOperand(1, (2, 3), bits=4),
        "QLinearMatMul": IntegerOperand(3, (4, 5)),
        "QGemm": IntegerOperand(3, (4, 5)),
        "MatMulInteger": IntegerOperand(1, (3,)),
        "DynamicQuantizeMatMul": IntegerOperand(1, (2, 3)),
        "MatMulIntegerToFloat": IntegerOperand(1, (3, 5)),
    }

    def layout(self, scheme: Scheme, width: int) -> BlockLayout:
        """MatMulNBits takes 2, 4 and 8 bits and blocks of 16 to 256."""
        bits = {3: 4}.get(scheme.weight_bits, scheme.weight_bits)
        blocked = scheme if scheme.group_size != CHANNEL else replace(scheme, group_size=GROUP_SIZES[-1])
        return BlockLayout(scheme, bits, blocked.group_for(width))

    def encode(self, rows: WeightRows, scheme: Scheme) -> list[Packed]:
        """MatMulNBits' own layout: blobs uint8 [N, blocks, g bits / 8], scales [N, blocks], zero points packed by rows.

        Symmetric weights have no zero points.
        """
        layout = self.layout(scheme, rows.width)
        found = laid_out(rows, layout, padded=True)
        parts = {"q": found.q.reshape(rows.shape[0], layout.blocks(rows.width), -1), "scale": found.scale}
        if not scheme.symmetric:
            parts["zero"] = pack(found.zero, layout.bits)
        return [Packed.of(f"{rows.name}_{role}", array) for role, array in parts.items()]

    def stored_bytes(self, shape: tuple[int, ...], scheme: Scheme) -> int:
        width = prod(shape[1:])
        layout = self.layout(scheme, width)
        blocks = layout.blocks(width)
        zeros = 0 if scheme.symmetric else layout.packed_bytes(blocks)
        return shape[0] * (layout.packed_bytes(blocks * layout.block) + zeros + 2 * blocks)

    def emit(self, site: Site, parts: list[ir.Value]) -> None:
        """MatMulNBits, and what else a Gemm does."""
        q, scale, *zero = parts
        rows, width = site.shape
        layout = self.layout(site.scheme, width)
        transposes = [node for node in site.readers() if node.op_type == "Transpose"]
        products = [node for node in site.readers() if node.op_type == "Gemm"]
        products += [node for transpose in transposes for node, _ in transpose.outputs[0].uses()]
        scale = site.widened(scale, site.first(products))
        site.register(q, *zero)
        attributes = {"K": width, "N": rows, "bits": layout.bits, "block_size": layout.block}
        if site.scheme.activation_bits == 8:
            attributes["accuracy_level"] = INT8_ACTIVATIONS

        def multiplied(x: ir.Value | None) -> ir.Node:
            return make_node("MatMulNBits", [x, q, scale, *zero], attributes, CONTRIB)

        for node in products:
            nodes = product_nodes(node, multiplied, site.dtype)
            site.order.update(dict.fromkeys(nodes, site.order[node]))
            replace_node(site.graph, node, nodes)
        for transpose in transposes:
            site.graph.remove(transpose, safe=True)

    def use(self, value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
        if node.op_type == "Gemm":
            if index != 1:
                return Use(reason="Gemm's left operand or bias")
            return Use(self, transposed=not node.attributes.get_int("transB", 0))
        return (turned_use if node.op_type == "Transpose" else matmul_use)(value, node, index, graph)

    def attach(self, graph: ir.Graph, weight: ir.Value, nodes: Sequence[ir.Node]) -> None:
        """Let the products `nodes` (or those behind their Transposes) read Transpose(W), W [N, K], as MatMul."""
        turned = make_node("Transpose", [weight])
        graph.insert_before(nodes[0] if len(nodes) == 1 else first_of(graph, nodes), turned)

        def multiplied(x: ir.Value | None) -> ir.Node:
            return make_node("MatMul", [x, turned.outputs[0]])

        for node in nodes:
            for product in behind(node):
                if product.op_type == "Gemm":
                    replace_node(graph, product, product_nodes(product, multiplied, weight.dtype))
                else:
                    product.replace_input_with(1, turned.outputs[0])
            if node.op_type == "Transpose":
                graph.remove(node, safe=True)

    def layers(self, weight: ir.Value) -> list[ir.Node]:
        return [layer for node, _ in weight.uses() for layer in behind(node)]

    def weight_shape(self, node: ir.Node, tensor: ir.TensorProtocol, bits: int) -> tuple[int, ...]:
        if node.op_type != "MatMulNBits":
            return super().weight_shape(node, tensor, bits)
        return node.attributes["N"].as_int(), node.attributes["K"].as_int()

    def rounds_inputs(self, node: ir.Node) -> bool:
        return node.op_type != "MatMulNBits" or node.attributes.get_int("accuracy_level", 0) == INT8_ACTIVATIONS


LINEAR = Linear()


def behind(node: ir.Node) -> list[ir.Node]:
    """The readers of a Transpose's result, or the node itself."""
    return [reader for reader, _ in node.outputs[0].uses()] if node.op_type == "Transpose" else [node]


def matmul_use(value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
    if index == 0:
        return Use(reason="the left operand of MatMul")
    if rank_of(value) not in (2, None):
        return Use(reason="a batch of matrices or a vector in MatMul")
    if rank_of(node.inputs[0]) == 1:
        return Use(reason="multiplied by a vector without a batch axis")
    return Use(LINEAR, transposed=True)


def turned_use(value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
    """Transpose -> MatMul or Gemm: what its readers agree on, the other way round."""
    uses = uses_of(node.outputs[0], graph)
    use, reason = uses[0], next((use.reason for use in uses if not use.kind), "")
    swapped = list(node.attributes.get_ints("perm", [1, 0])) == [1, 0]
    if len(set(uses)) > 1 or use.kind is not LINEAR or rank_of(value) != 2 or not swapped:
        return Use(reason=reason or "read by a Transpose whose readers differ")
    return Use(LINEAR, transposed=not use.transposed)


def product_nodes(
    node: ir.Node, multiplied: Callable[[ir.Value | None], ir.Node], dtype: ir.DataType | None
) -> list[ir.Node]:
    """A MatMul, or a Gemm's alpha A' B' + beta C in simpler operators; `multiplied` makes the product by the weight."""
    if node.op_type != "Gemm":
        return [multiplied(node.inputs[0])]
    nodes: list[ir.Node] = []

    def then(made: ir.Node) -> ir.Value:
        nodes.append(made)
        return made.outputs[0]

    def scaled(x: ir.Value | None, factor: float) -> ir.Value | None:
        if factor == 1.0 or dtype is None:
            return x
        constant = then(ir.node("Constant", [], {"value": ir.tensor(dtype.numpy().type(factor), dtype=dtype)}))
        return then(make_node("Mul", [x, constant]))

    x, _, *bias = node.inputs
    product = then(multiplied(then(make_node("Transpose", [x])) if node.attributes.get_int("transA", 0) else x))
    total = scaled(product, node.attributes.get_float("alpha", 1.0))
    if bias and bias[0] is not None:
        then(make_node("Add", [total, scaled(bias[0], node.attributes.get_float("beta", 1.0))]))
    return nodes
