"""float16 weights that a float32 graph widens: looked through while layers are found, put back where they stay."""

from __future__ import annotations

import onnx_ir as ir

from qsched_edge.foreign.opset import SMALL_TENSOR
from qsched_edge.quantize.emit import first_of, make_node


def bypass_casts(graph: ir.Graph) -> set[str]:
    """Let the readers of float16 weights that a float32 graph widens (`--bits 16` writes such) read them directly.

    Returns the names of these weights: they are called float32, as what reads them computes, and hold float16.
    """
    found = set()
    for value in graph.initializers.values():
        casts = [node for node, _ in value.uses()]
        if casts and not value.is_graph_output() and all(widens(value, node, graph) for node in casts):
            value.type = ir.TensorType(ir.DataType.FLOAT)
            found.add(str(value.name))
            for node in casts:
                node.outputs[0].replace_all_uses_with(value)
                graph.remove(node, safe=True)
    return found


def widens(value: ir.Value, node: ir.Node, graph: ir.Graph) -> bool:
    tensor, result = value.const_value, node.outputs[0]
    here = node.graph is graph and all(reader.graph is graph for reader, _ in result.uses())
    large = tensor is not None and tensor.dtype == ir.DataType.FLOAT16 and tensor.nbytes > SMALL_TENSOR
    to_float = node.op_type == "Cast" and node.attributes.get_int("to", 0) == ir.DataType.FLOAT.value
    return here and large and to_float and bool(result.uses()) and not result.is_graph_output()


def restore_cast(graph: ir.Graph, value: ir.Value) -> None:
    """The opposite of `bypass_casts` for a weight that stays."""
    value.type = ir.TensorType(ir.DataType.FLOAT16)
    cast = make_node("Cast", [value], {"to": ir.DataType.FLOAT.value})
    readers = [node for node, _ in value.uses() if node is not cast]
    value.replace_all_uses_with(cast.outputs[0])
    cast.replace_input_with(0, value)
    graph.insert_before(first_of(graph, readers), cast)
