"""What is in a graph or a bundle: each weight's kind, shape, bits and bytes, and their shares of the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx_ir as ir
from qsched_runtime import manifest as manifests
from qsched_runtime.sampler import check_graphs

from qsched_edge.checkpoint.recipes import read_json
from qsched_edge.errors import WeightsError
from qsched_edge.foreign.graph_weights import check_external, external_files
from qsched_edge.quantize.encode import SMALL
from qsched_edge.quantize.rewrite import REPORT

SMALL_NAME = "(small tensors)"
# operator -> kind, the input that holds integers, and which more belong to it
INTEGER_READERS = {
    "MatMulNBits": ("linear", 1, (2, 3)),
    "GatherBlockQuantized": ("embedding", 0, (2, 3)),
    "QLinearConv": ("conv", 3, (4, 5)),
    "QLinearMatMul": ("linear", 3, (4, 5)),
    "QGemm": ("linear", 3, (4, 5)),
    "ConvInteger": ("conv", 1, (3,)),
    "MatMulInteger": ("linear", 1, (3,)),
    "DynamicQuantizeMatMul": ("linear", 1, (2, 3)),
    "MatMulIntegerToFloat": ("linear", 1, (3, 5)),
    "DequantizeLinear": ("", 0, (1, 2)),
}
DEFAULT_BITS = {"MatMulNBits": 4, "GatherBlockQuantized": 4}  # where the attribute is missing
FLOAT_READERS = {
    ("Conv", 1): "conv", ("ConvTranspose", 1): "conv", ("MatMul", 1): "linear", ("MatMul", 0): "linear",
    ("Gemm", 1): "linear", ("Gather", 0): "embedding",
}  # fmt: skip
THROUGH = ("Cast", "Transpose", "Reshape", "Identity", "DequantizeLinear")
FLOAT_NAMES = {"FLOAT": "FP32", "FLOAT16": "FP16", "BFLOAT16": "BF16", "DOUBLE": "FP64"}


@dataclass(frozen=True)
class Weight:
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


@dataclass(frozen=True)
class GraphSummary:
    """One graph: its weights (small ones in one line) and the bytes of its files."""

    name: str
    file_bytes: int
    weights: list[Weight]

    def shares(self) -> dict[str, dict[str, dict[str, int]]]:
        return shares(self.weights)


@dataclass(frozen=True)
class Inspection:
    """A graph, or a bundle with its components."""

    target: str
    graphs: list[GraphSummary]

    def json(self) -> dict[str, Any]:
        every = [weight for graph in self.graphs for weight in graph.weights]
        graphs = [{**asdict(graph), "shares": graph.shares()} for graph in self.graphs]
        total = sum(graph.file_bytes for graph in self.graphs)
        return {"target": self.target, "file_bytes": total, "shares": shares(every), "graphs": graphs}

    def text(self) -> str:
        lines = []
        for graph in self.graphs:
            lines += [
                f"{graph.name}: {graph.file_bytes:,} bytes",
                *map(row, graph.weights),
                *share_lines(graph.weights),
            ]
        if len(self.graphs) > 1:
            every = [weight for graph in self.graphs for weight in graph.weights]
            total = sum(graph.file_bytes for graph in self.graphs)
            lines += [f"{self.target}: {total:,} bytes in {len(self.graphs)} graphs", *share_lines(every)]
        return "\n".join(lines)


def inspect(target: Path) -> Inspection:
    """Read an ONNX file or a bundle's folder; raises WeightsError or BundleError if it is neither."""
    if target.is_dir():
        manifest = manifests.read(target)
        check_graphs(target, manifest, "any")
        components = manifest.components
        found = [
            summary(name, target / c.file, names_in(target / c.file).get("layers", {}))
            for name, c in components.items()
        ]
        return Inspection(str(target), found)
    return Inspection(str(target), [summary(target.name, target, {})])


def names_in(graph: Path) -> dict[str, Any]:
    """What the export noted beside a component's graph."""
    return read_json(graph.with_name(REPORT)) if graph.with_name(REPORT).is_file() else {}


def summary(name: str, path: Path, noted: dict[str, str]) -> GraphSummary:
    """`noted` says which precision a container holds: the graph cannot tell 3 bits from 4."""
    if not path.is_file():
        raise WeightsError(f"no graph at {path}: the file does not exist")
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf, onnx and onnx_ir raise from unrelated classes
        raise WeightsError(f"{path} cannot be read as ONNX ({type(error).__name__}): give an .onnx file") from error
    check_external(model, path.parent)
    weights = [
        Weight(w.name, w.kind, w.shape, noted.get(w.name, w.precision), w.bits, w.bytes) for w in weights_of(model)
    ]
    total = sum(file.stat().st_size for file in {path.resolve(), *external_files(model)})
    return GraphSummary(name, total, weights)


def weights_of(model: ir.Model) -> list[Weight]:
    """Integer weights with their scales, then the float ones; what has few values becomes one line."""
    counted: set[ir.Value] = set()
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    found = [weight for node in nodes for weight in integer_weights(node, counted)]
    rest = [v for graph in model.graphs() for v in graph.initializers.values() if v not in counted]
    rest += [node.outputs[0] for node in nodes if node.op_type == "Constant" and "value" in node.attributes]
    tensors = [(value, tensor) for value in rest if (tensor := tensor_of(value)) is not None]
    found += [plain_weight(value, tensor) for value, tensor in tensors if tensor.size >= SMALL]
    small = [tensor for _, tensor in tensors if tensor.size < SMALL]
    if small:
        values, size = sum(t.size for t in small), sum(t.nbytes for t in small)
        found.append(Weight(SMALL_NAME, "other", (values,), "mixed", 8 * size // max(values, 1), size))
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
    node = value.producer()
    return source_of(node.inputs[0]) if node is not None and node.op_type == "Cast" and node.inputs[0] else value


def integer_weights(node: ir.Node, counted: set[ir.Value]) -> Iterator[Weight]:
    """The quantized weight that `node` reads, unless it reads none or another node has brought it."""
    if node.op_type not in INTEGER_READERS:
        return
    kind, index, companions = INTEGER_READERS[node.op_type]
    value = node.inputs[index]
    tensor = tensor_of(value)
    if tensor is None or value is None or value in counted:
        return
    given = [node.inputs[i] for i in companions if i < len(node.inputs)]
    parts = [source_of(v) for v in (*given, wanted_shape(node)) if v is not None]
    sizes = [t.nbytes for part in parts if part not in counted and (t := tensor_of(part)) is not None]
    counted.update((value, *parts))
    bits = node.attributes.get_int("bits", DEFAULT_BITS.get(node.op_type, tensor.dtype.bitwidth))
    kind = kind or kind_behind(node.outputs[0])
    precision = f"W{bits}A{8 if rounds_activations(node) else 16}"
    name = str(value.name).removesuffix("_q").removesuffix("_quantized")
    yield Weight(name, kind, shape_of(node, tensor, bits), precision, bits, int(tensor.nbytes + sum(sizes)))


def shape_of(node: ir.Node, tensor: ir.TensorProtocol, bits: int) -> tuple[int, ...]:
    """The weight's own shape, not its packing's."""
    shape = tuple(int(d) for d in tensor.shape.numpy())
    if node.op_type == "MatMulNBits":
        return node.attributes["N"].as_int(), node.attributes["K"].as_int()
    if node.op_type == "GatherBlockQuantized" and tensor.dtype == ir.DataType.UINT8:
        return *shape[:-1], shape[-1] * 8 // bits
    wanted = tensor_of(wanted_shape(node))
    return tuple(int(d) for d in wanted.numpy()) if wanted is not None else shape


def wanted_shape(node: ir.Node) -> ir.Value | None:
    """The constant that a DequantizeLinear's result is reshaped to, if it is."""
    readers = [n for n, _ in node.outputs[0].uses()]
    reshaped = node.op_type == "DequantizeLinear" and len(readers) == 1 and readers[0].op_type == "Reshape"
    return readers[0].inputs[1] if reshaped else None


def rounds_activations(node: ir.Node) -> bool:
    """Whether the layer's other operand is 8 bits wide too."""
    if node.op_type == "MatMulNBits":
        return node.attributes.get_int("accuracy_level", 0) == 4
    if node.op_type != "DequantizeLinear":
        return node.op_type != "GatherBlockQuantized"
    layers = [n for n, _ in node.outputs[0].uses()]
    if len(layers) == 1 and layers[0].op_type in THROUGH:
        layers = [n for n, _ in layers[0].outputs[0].uses()]
    producers = [n.inputs[0].producer() for n in layers if n.inputs and n.inputs[0] is not None]
    return any(p is not None and p.op_type == "DequantizeLinear" and p is not node for p in producers)


def plain_weight(value: ir.Value, tensor: ir.TensorProtocol) -> Weight:
    shape, dtype = tuple(int(d) for d in tensor.shape.numpy()), tensor.dtype.name
    bits = 8 * tensor.nbytes // tensor.size
    return Weight(str(value.name), kind_behind(value), shape, FLOAT_NAMES.get(dtype, dtype), bits, int(tensor.nbytes))


def kind_behind(value: ir.Value) -> str:
    """The kind of the first layer that reads a value, directly or converted."""
    for node, index in value.uses():
        if (node.op_type, index) in FLOAT_READERS:
            return FLOAT_READERS[node.op_type, index]
        if node.op_type in THROUGH and index == 0:
            return kind_behind(node.outputs[0])
    return "other"


def shares(weights: Iterable[Weight]) -> dict[str, dict[str, dict[str, int]]]:
    """Values and bytes by precision and by kind."""
    found: dict[str, dict[str, dict[str, int]]] = {"precision": {}, "kind": {}}
    for weight in weights:
        for table, key in (("precision", weight.precision), ("kind", weight.kind)):
            entry = found[table].setdefault(key, defaultdict(int))
            entry["values"] += weight.values
            entry["bytes"] += weight.bytes
    return found


def row(weight: Weight) -> str:
    shape = " x ".join(map(str, weight.shape))
    return f"  {weight.precision:6} {weight.kind:10} {weight.bits:3} bits {weight.bytes:14,}  {weight.name} [{shape}]"


def share_lines(weights: list[Weight]) -> list[str]:
    total = sum(weight.bytes for weight in weights) or 1
    return [
        f"  {table:9} {key:10} {entry['bytes'] / total:6.1%} of the bytes {entry['bytes']:14,} "
        f"{entry['values']:14,} values"
        for table, entries in shares(weights).items()
        for key, entry in sorted(entries.items(), key=lambda item: -item[1]["bytes"])
    ]
