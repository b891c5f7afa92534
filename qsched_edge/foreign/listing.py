"""The weights of any ONNX graph, quantized or not: kind, shape, bits and bytes of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from qsched_edge.quantize.layers.other import SMALL_WEIGHT
from qsched_edge.quantize.layers.readers import integer_reader, kind_behind, rounds_inputs

SMALL_TENSORS = "(small tensors)"
FLOAT_NAMES = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "DOUBLE": "FP64"}


@dataclass(frozen=True)
class ListedWeight:
    """`bits` is what one value takes in the file; `bytes` count scales and zero points too."""

    name: str
    kind: str
    shape: tuple[int, ...]
    precision: str
    bits: int
    bytes: int

    @property
    def values(self) -> int:
        return prod(self.shape)


def listed_weights(model: ir.Model) -> list[ListedWeight]:
    """Integer weights with their scales, then the float ones; what has few values becomes one line."""
    counted: set[ir.Value] = set()
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    found = [weight for node in nodes for weight in integer_weights(node, counted)]
    rest = [v for graph in model.graphs() for v in graph.initializers.values() if v not in counted]
    rest += [node.outputs[0] for node in nodes if node.op_type == "Constant" and "value" in node.attributes]
    tensors = [(value, tensor) for value in rest if (tensor := tensor_of(value)) is not None]
    found += [plain_weight(value, tensor) for value, tensor in tensors if tensor.size >= SMALL_WEIGHT]
    small = [tensor for _, tensor in tensors if tensor.size < SMALL_WEIGHT]
    if small:
        values, size = sum(t.size for t in small), sum(t.nbytes for t in small)
        found.append(ListedWeight(SMALL_TENSORS, "other", (values,), "mixed", 8 * size // max(values, 1), size))
    return found


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant behind a value: an initializer's or a Constant's, also through a Cast."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        return node.attributes["value"].as_tensor()
    return tensor_of(node.inputs[0]) if node is not None and node.op_type == "Cast" else None


def source_of(value: ir.Value) -> ir.Value:
    """The value before any Casts."""
    node = value.producer()
    return source_of(node.inputs[0]) if node is not None and node.op_type == "Cast" and node.inputs[0] else value


def integer_weights(node: ir.Node, counted: set[ir.Value]) -> Iterator[ListedWeight]:
    """The quantized weight that `node` reads, unless it reads none or another node has brought it."""
    found = integer_reader(node)
    if found is None:
        return
    kind, operand = found
    value = node.inputs[operand.weight]
    tensor = tensor_of(value)
    if tensor is None or value is None or value in counted:
        return
    wanted = wanted_shape(node)
    given = [node.inputs[i] for i in operand.companions if i < len(node.inputs)]
    parts = [source_of(v) for v in (*given, wanted) if v is not None]
    sizes = [t.nbytes for part in parts if part not in counted and (t := tensor_of(part)) is not None]
    counted.update((value, *parts))
    bits = node.attributes.get_int("bits", operand.bits or tensor.dtype.bitwidth)
    own = tensor_of(wanted)
    shape = kind.weight_shape(node, tensor, bits) if own is None else tuple(int(d) for d in own.numpy())
    precision = f"W{bits}A{8 if rounds_inputs(node, kind) else 16}"
    name = str(value.name).removesuffix("_q").removesuffix("_quantized")
    yield ListedWeight(name, kind.name, shape, precision, bits, int(tensor.nbytes + sum(sizes)))


def wanted_shape(node: ir.Node) -> ir.Value | None:
    """The constant that a DequantizeLinear's result is reshaped to, if it is."""
    readers = [n for n, _ in node.outputs[0].uses()]
    reshaped = node.op_type == "DequantizeLinear" and len(readers) == 1 and readers[0].op_type == "Reshape"
    return readers[0].inputs[1] if reshaped else None


def plain_weight(value: ir.Value, tensor: ir.TensorProtocol) -> ListedWeight:
    shape, dtype = tuple(int(d) for d in tensor.shape.numpy()), tensor.dtype.name
    bits, kind = 8 * tensor.nbytes // tensor.size, kind_behind(value).name
    return ListedWeight(str(value.name), kind, shape, FLOAT_NAMES.get(dtype, dtype), bits, int(tensor.nbytes))
