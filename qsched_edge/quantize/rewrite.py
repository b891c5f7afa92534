"""A captured graph and its weights -> a graph on disk, every weight in the precision the plan gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qsched_edge.capture.graph import Captured
from qsched_edge.errors import QuantizeError
from qsched_edge.quantize.methods import method
from qsched_edge.quantize.scheme import QuantizedMatrix, Scheme, pack
from qsched_edge.quantize.store import TensorStore
from qsched_edge.weights import Weights

GRAPH, DATA = "model.onnx", "model.onnx_data"
SMALL = 1024  # weights with fewer values (norms, biases) stay float32: a Cast would cost what it saves
CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class Layer:
    """What became of one weight: its kind ("linear", "conv", "other"), shape, scheme name and stored bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    precision: str
    bytes: int


Plan = Callable[[str, str], Scheme]  # (weight name, kind) -> scheme


def write_graph(
    captured: Captured, weights: Weights, plan: Plan, folder: Path, advance: Callable[[int], None] = lambda n: None
) -> list[Layer]:
    """Stream every weight into `folder`/model.onnx + model.onnx_data; `advance` hears the weights' parameter counts.

    Linear weights become MatMulNBits, convolutions a blocked DequantizeLinear before Conv, the rest floats of the
    plan's width. Raises WeightsError for a tensor that is missing or has another shape.
    """
    graph, layers = captured.model.graph, []
    with TensorStore(folder / DATA) as store:
        for name in captured.weight_names:
            value = graph.initializers.pop(name)
            weight = checked(weights[name], value)
            kind = kind_of(value)
            before = store.file.tell()
            scheme = plan(name, kind)
            EMITTERS[kind if scheme.is_integer else "other"](graph, store, value, weight, scheme)
            layers.append(Layer(name, kind, weight.shape, scheme.name, store.file.tell() - before))
            advance(weight.size)
    for value in (*graph.inputs, *graph.outputs):
        name_axes(value)
    captured.model.opset_imports[CONTRIB] = 1
    ir.save(captured.model, folder / GRAPH)
    return layers


def checked(weight: np.ndarray, value: ir.Value) -> np.ndarray:
    expected = tuple(value.shape.numpy()) if value.shape is not None else weight.shape
    if weight.shape != expected:
        raise QuantizeError(f"{value.name} has shape {weight.shape} in the files and {expected} in the architecture")
    if not np.isfinite(weight).all():
        raise QuantizeError(f"{value.name} holds values that are not finite: the checkpoint is damaged")
    return weight


def name_axes(value: ir.Value) -> None:
    """torch's symbols (s18) mean nothing to a reader of the graph."""
    if value.shape is not None:
        names = {0: "batch"} if value.shape.rank() < 4 else {0: "batch", 2: "height", 3: "width"}
        for axis, dim in enumerate(value.shape):
            if not isinstance(dim, int):
                value.shape[axis] = names.get(axis, f"axis_{axis}")


def kind_of(value: ir.Value) -> str:
    uses = value.uses()
    if len(uses) == 1:
        ((node, index),) = uses
        if node.op_type == "Conv" and index == 1:
            return "conv"
        if node.op_type == "Gemm" and index == 1 and node.attributes["transB"].as_int() == 1:
            return "linear"
        if node.op_type == "Transpose" and all(n.op_type == "MatMul" and i == 1 for n, i in node.outputs[0].uses()):
            return "linear"
    return "other"


def emit_linear(graph: ir.Graph, store: TensorStore, value: ir.Value, weight: np.ndarray, scheme: Scheme) -> None:
    """x W^T (+ bias) as com.microsoft.MatMulNBits (+ Add)."""
    matrix = method(scheme.method)(weight, scheme)
    (use, _), *_ = value.uses()
    name = str(value.name)
    consumers = [use] if use.op_type == "Gemm" else [n for n, _ in use.outputs[0].uses()]
    packed, scale, zero = stored_linear(store, name, matrix, scheme)
    scale = widened(graph, scale, consumers[0])
    register(graph, packed, *([zero] if zero else []))
    for node in consumers:
        attributes = {"K": weight.shape[1], "N": weight.shape[0], "bits": matrix.bits, "block_size": matrix.group_size}
        product = make_node(
            "MatMulNBits", [node.inputs[0], packed, scale, *([zero] if zero else [])], attributes, CONTRIB
        )
        nodes = [product]
        if node.op_type == "Gemm" and len(node.inputs) > 2:
            nodes.append(make_node("Add", [product.outputs[0], node.inputs[2]]))
        replace(graph, node, nodes)
    if use.op_type == "Transpose":
        graph.remove(use, safe=True)


def stored_linear(
    store: TensorStore, name: str, matrix: QuantizedMatrix, scheme: Scheme
) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """MatMulNBits' own layout: blobs uint8 [N, blocks, g bits / 8], scales [N, blocks], zero points packed by rows."""
    rows, blocks = matrix.scale.shape
    padded = np.zeros((rows, blocks * matrix.group_size), np.uint8)
    padded[:, : matrix.q.shape[1]] = matrix.q
    blobs = pack(padded.reshape(rows, blocks, -1), matrix.bits)
    zero = None if scheme.symmetric else store.add(f"{name}_zero", pack(matrix.zero, matrix.bits))
    return store.add(f"{name}_q", blobs), store.add(f"{name}_scale", matrix.scale), zero


def emit_conv(graph: ir.Graph, store: TensorStore, value: ir.Value, weight: np.ndarray, scheme: Scheme) -> None:
    """DequantizeLinear in blocks of [O, I kh kw], then Reshape to [O, I, kh, kw], before the Conv."""
    ((conv, _),) = value.uses()
    matrix = method(scheme.method)(weight.reshape(weight.shape[0], -1), scheme)
    dtype = ir.DataType.UINT4 if matrix.bits == 4 else ir.DataType.UINT8
    flat = pack(matrix.q.reshape(-1), matrix.bits)
    q = store.add_packed(f"{value.name}_q", flat, dtype, matrix.q.shape)
    zero = store.add_packed(f"{value.name}_zero", pack(matrix.zero.reshape(-1), matrix.bits), dtype, matrix.zero.shape)
    scale = widened(graph, store.add(f"{value.name}_scale", matrix.scale), conv)
    shape = store.add(f"{value.name}_shape", np.array(weight.shape, np.int64))
    register(graph, q, zero, shape)
    restored = make_node("DequantizeLinear", [q, scale, zero], {"axis": 1, "block_size": matrix.group_size})
    shaped = make_node("Reshape", [restored.outputs[0], shape])
    graph.insert_before(conv, [restored, shaped])
    conv.replace_input_with(1, shaped.outputs[0])


def emit_float(graph: ir.Graph, store: TensorStore, value: ir.Value, weight: np.ndarray, scheme: Scheme) -> None:
    """float32 as it is, or float16 with a Cast that onnxruntime folds at load."""
    if scheme.weight_bits == 32 or weight.size < SMALL:
        wide = store.add(str(value.name), weight.astype(np.float32))
        register(graph, wide)
    else:
        half = weight.astype(np.float16)
        if not np.isfinite(half).all():
            raise QuantizeError(f"{value.name} exceeds float16's range: keep it in 32 bits in the recipe")
        first = min((n for n, _ in value.uses()), key=list(graph).index)
        wide = widened(graph, store.add(str(value.name), half), first)
    value.replace_all_uses_with(wide)


EMITTERS = {"linear": emit_linear, "conv": emit_conv, "other": emit_float}


def widened(graph: ir.Graph, half: ir.Value, before: ir.Node) -> ir.Value:
    """Cast a float16 initializer to float32 in the graph: half the bytes on disk, nothing at run time."""
    register(graph, half)
    cast = make_node("Cast", [half], {"to": ir.DataType.FLOAT.value})
    graph.insert_before(before, cast)
    return cast.outputs[0]


def register(graph: ir.Graph, *values: ir.Value) -> None:
    for value in values:
        graph.register_initializer(value)


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
