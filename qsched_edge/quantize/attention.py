"""Attention as one operator: com.microsoft.MultiHeadAttention in the place of products, softmax and transpositions.

onnxruntime has it on the processor, CUDA and WebGPU, and never writes out the scores of all pairs where it need not.
What is found is what torch's exporter makes of scaled_dot_product_attention:

    scores = (q c) (k^T c) (+ bias)    p = softmax(scores), rows of NaN as 0    out = p v

with q, k, v [B, heads, length, size]. Whatever differs stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qsched_edge.quantize.emit import CONTRIB, replace_node

HEADS_AND_LENGTH = [0, 2, 1, 3]  # a permutation that exchanges the two
TURNED = [0, 2, 1]


@dataclass(frozen=True)
class AttentionPattern:
    """q, k, v and the bias (or None) of one attention, the factor of its scores, and the node that gives its result."""

    q: ir.Value
    k: ir.Value
    v: ir.Value
    bias: ir.Value | None
    scale: float
    last: ir.Node


def fuse_attention(graph: ir.Graph) -> int:
    """Replace every attention that is found in `graph`; how many that were."""
    found = [match for node in graph if node.op_type == "Softmax" and (match := attention_of(node)) is not None]
    for match in found:
        replace_attention(graph, match)
    if found:
        remove_unread(graph)
    return len(found)


def attention_of(softmax: ir.Node) -> AttentionPattern | None:
    """The attention around a Softmax, or None."""
    product, bias = scores_of(softmax.inputs[0])
    last = behind_softmax(softmax)
    if product is None or last is None or softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return None
    q, first = scaled(product.inputs[0])
    turned, second = scaled(product.inputs[1])
    k, v = untransposed(turned), last.inputs[1]
    if q is None or k is None or v is None:
        return None
    pattern = AttentionPattern(q, k, v, bias, first * second, last)
    return pattern if fits(pattern) else None


def scores_of(value: ir.Value | None) -> tuple[ir.Node | None, ir.Value | None]:
    """The product q k^T and what is added to it."""
    node = only_producer(value, "MatMul", "Add")
    if node is None or node.op_type == "MatMul":
        return node, None
    for product, bias in (node.inputs, node.inputs[::-1]):
        found = only_producer(product, "MatMul")
        if found is not None:
            return found, bias
    return None, None


def behind_softmax(softmax: ir.Node) -> ir.Node | None:
    """The product with v, directly or behind the Where that makes rows of NaN zeros."""
    readers = list(dict.fromkeys(node for node, _ in softmax.outputs[0].uses()))
    if {node.op_type for node in readers} == {"IsNaN", "Where"} and len(readers) == 2:
        where = next(node for node in readers if node.op_type == "Where")
        readers = [node for node, _ in where.outputs[0].uses()]
        left = where.outputs[0]
    else:
        left = softmax.outputs[0]
    if len(readers) == 1 and readers[0].op_type == "MatMul" and readers[0].inputs[0] is left:
        return readers[0]
    return None


def scaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """x and c of x c; c = 1 where nothing is multiplied."""
    node = only_producer(value, "Mul")
    if node is None:
        return value, 1.0
    factor = number_of(node.inputs[1])
    return (value, 1.0) if factor is None else (node.inputs[0], factor)


def untransposed(value: ir.Value | None) -> ir.Value | None:
    """k of k^T, which is written as Transpose, or between two Reshapes that join batch and heads."""
    node = only_producer(value, "Reshape", "Transpose")
    if node is None:
        return None
    if node.op_type == "Transpose":
        return node.inputs[0] if permutation(node) == [0, 1, 3, 2] else None
    turned = only_producer(node.inputs[0], "Transpose")
    joined = only_producer(turned.inputs[0], "Reshape") if turned is not None else None
    return joined.inputs[0] if turned is not None and joined is not None and permutation(turned) == TURNED else None


def fits(match: AttentionPattern) -> bool:
    """Are all shapes known that the operator needs, and does the bias have one that it takes?"""
    shapes = [value.shape for value in (match.q, match.k, match.v)]
    if any(s is None or s.rank() != 4 or not isinstance(s[1], int) or not isinstance(s[3], int) for s in shapes):
        return False
    q, k, v = (list(s) for s in shapes if s is not None)
    if not q[1] == k[1] == v[1] or q[3] != k[3] or match.q.dtype not in (ir.DataType.FLOAT, None):
        return False
    if match.bias is None:
        return True
    bias = list(match.bias.shape) if match.bias.shape is not None else []
    wanted = ((1, q[0]), (1, q[1]), (q[2],), (k[2],))
    return len(bias) == 4 and all(known(d) and d in allowed for d, allowed in zip(bias, wanted, strict=True))


def known(dim: int | ir.SymbolicDim) -> bool:
    return isinstance(dim, int) or dim.value is not None


def replace_attention(graph: ir.Graph, match: AttentionPattern) -> None:
    """MultiHeadAttention reads and gives [B, length, heads size]; transpositions on both sides go where they can."""
    assert match.q.shape is not None
    assert match.v.shape is not None
    heads, size = int(match.q.shape[1]), int(match.v.shape[3])  # type: ignore[arg-type]
    made: list[ir.Node] = []
    rows = [in_rows(value, made) for value in (match.q, match.k, match.v)]
    inputs = rows if match.bias is None else [*rows, None, None, match.bias]
    attributes = {"num_heads": heads, "scale": float(np.float32(match.scale))}
    attention = ir.node("MultiHeadAttention", inputs, attributes, domain=CONTRIB)
    made.append(attention)
    joined = joined_after(match.last, heads * size)
    if joined is not None:
        graph.insert_before(match.last, made[:-1])
        replace_node(graph, joined, [attention])
        return
    split = ir.node("Reshape", [attention.outputs[0], constant([0, 0, heads, size], made)])
    made += [split, ir.node("Transpose", [split.outputs[0]], {"perm": HEADS_AND_LENGTH})]
    replace_node(graph, match.last, made)


def in_rows(value: ir.Value, made: list[ir.Node]) -> ir.Value:
    """[B, heads, length, size] as [B, length, heads size]: what it was made of, or by new nodes."""
    assert value.shape is not None
    width = int(value.shape[1]) * int(value.shape[3])  # type: ignore[arg-type]
    turned = value.producer()
    split: ir.Value | None = None
    if turned is not None and turned.op_type == "Transpose" and permutation(turned) == HEADS_AND_LENGTH:
        split = turned.inputs[0]
        reshape = split.producer() if split is not None else None
        source = reshape.inputs[0] if reshape is not None and reshape.op_type == "Reshape" else None
        if source is not None and source.shape is not None and source.shape.rank() == 3 and source.shape[2] == width:
            return source
    if split is None:
        made.append(ir.node("Transpose", [value], {"perm": HEADS_AND_LENGTH}))
        split = made[-1].outputs[0]
    made.append(ir.node("Reshape", [split, constant([0, 0, width], made)]))
    return made[-1].outputs[0]


def joined_after(last: ir.Node, width: int) -> ir.Node | None:
    """The Reshape to [B, length, heads size] that follows the result, behind a Transpose, if nothing else reads it."""
    turned = only_reader(last, "Transpose")
    joined = only_reader(turned, "Reshape") if turned is not None else None
    if turned is None or joined is None or permutation(turned) != HEADS_AND_LENGTH:
        return None
    shape = joined.outputs[0].shape
    return joined if shape is not None and shape.rank() == 3 and shape[2] == width else None


def constant(values: list[int], made: list[ir.Node]) -> ir.Value:
    made.append(ir.node("Constant", [], {"value": ir.tensor(np.array(values, np.int64))}))
    return made[-1].outputs[0]


def number_of(value: ir.Value | None) -> float | None:
    """The one number of a constant."""
    if value is None:
        return None
    tensor, node = value.const_value, value.producer()
    if tensor is None and node is not None and node.op_type == "Constant" and "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor()
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def permutation(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("perm", []))


def only_producer(value: ir.Value | None, *operators: str) -> ir.Node | None:
    """The node that gives `value`, if it is one of `operators` and nobody else reads the value."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type not in operators or node.domain not in ("", "ai.onnx"):
        return None
    return node if len(value.uses()) == 1 and not value.is_graph_output() else None


def only_reader(node: ir.Node, operator: str) -> ir.Node | None:
    output = node.outputs[0]
    readers = [reader for reader, _ in output.uses()]
    alone = len(readers) == 1 and not output.is_graph_output()
    return readers[0] if alone and readers[0].op_type == operator else None


def remove_unread(graph: ir.Graph) -> None:
    """Take out the nodes, and the small constants, whose results nobody reads any more."""
    for node in reversed(list(graph)):
        if all(not output.uses() and not output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if value.const_value is not None and not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
