"""A captured graph and its weights -> a graph on disk, every weight in the precision the plan gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx_ir as ir

from qsched_edge.capture.graph import Captured
from qsched_edge.errors import QuantizeError
from qsched_edge.memory import RamLimit
from qsched_edge.quantize.encode import ENCODERS, WeightRows
from qsched_edge.quantize.moments import Moments
from qsched_edge.quantize.scheme import Scheme
from qsched_edge.quantize.store import TensorStore
from qsched_edge.weights import Weights

GRAPH, DATA = "model.onnx", "model.onnx_data"
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
    captured: Captured,
    weights: Weights,
    plan: Plan,
    folder: Path,
    advance: Callable[[int], None] = lambda n: None,
    ram: RamLimit = RamLimit(),  # noqa: B008 (frozen)
    moments_of: Callable[[str], Moments | None] = lambda name: None,
) -> list[Layer]:
    """Stream every weight into `folder`/model.onnx + model.onnx_data; `advance` hears the bytes read (2 a value).

    Linear weights become MatMulNBits, convolutions a blocked DequantizeLinear before Conv, the rest floats of the
    plan's width. Raises WeightsError for a tensor that is missing, QuantizeError for one of another shape. A folder
    with an interrupted run's data is carried on.
    """
    graph, layers = captured.model.graph, []
    order = {node: i for i, node in enumerate(graph)}
    with TensorStore(folder, DATA) as store:
        for name in captured.weight_names:
            value = graph.initializers.pop(name)
            shape = checked_shape(weights, value)
            kind = kind_of(value)
            scheme = plan(name, kind)
            role = kind if scheme.is_integer else "other"
            rows = WeightRows(weights, name, shape, ram.chunk(), moments_of(name))
            stored = store.weight(name, lambda role=role, rows=rows, scheme=scheme: ENCODERS[role](rows, scheme))  # type: ignore[misc]
            EMITTERS[role](graph, order, value, [store.value(s) for s in stored], scheme)
            layers.append(Layer(name, kind, shape, scheme.name, sum(s.bytes for s in stored)))
            advance(2 * prod(shape))
    for value in (*graph.inputs, *graph.outputs):
        name_axes(value)
    captured.model.opset_imports[CONTRIB] = 1
    ir.save(captured.model, folder / GRAPH)
    return layers


def checked_shape(weights: Weights, value: ir.Value) -> tuple[int, ...]:
    found = weights.shape(str(value.name))
    expected = tuple(value.shape.numpy()) if value.shape is not None else found
    if found != expected:
        raise QuantizeError(f"{value.name} has shape {found} in the files and {expected} in the architecture")
    return found


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


def emit_linear(
    graph: ir.Graph, order: dict[ir.Node, int], value: ir.Value, parts: list[ir.Value], scheme: Scheme
) -> None:
    """x W^T (+ bias) as com.microsoft.MatMulNBits (+ Add)."""
    q, scale, *zero = parts
    (use, _), *_ = value.uses()
    consumers = [use] if use.op_type == "Gemm" else [n for n, _ in use.outputs[0].uses()]
    scale = widened(graph, scale, min(consumers, key=lambda n: order[n]))
    register(graph, q, *zero)
    rows, width = value.shape.numpy() if value.shape is not None else (0, 0)
    attributes = {"K": width, "N": rows, "bits": scheme.weight_bits, "block_size": scheme.group_for(width)}
    for node in consumers:
        product = make_node("MatMulNBits", [node.inputs[0], q, scale, *zero], attributes, CONTRIB)
        nodes = [product]
        if node.op_type == "Gemm" and len(node.inputs) > 2:
            nodes.append(make_node("Add", [product.outputs[0], node.inputs[2]]))
        order.update(dict.fromkeys(nodes, order[node]))
        replace(graph, node, nodes)
    if use.op_type == "Transpose":
        graph.remove(use, safe=True)


def emit_conv(
    graph: ir.Graph, order: dict[ir.Node, int], value: ir.Value, parts: list[ir.Value], scheme: Scheme
) -> None:
    """DequantizeLinear in blocks of [O, I kh kw], then Reshape to [O, I, kh, kw], before the Conv."""
    q, scale, zero, shape = parts
    ((conv, _),) = value.uses()
    scale = widened(graph, scale, conv)
    register(graph, q, zero, shape)
    width = prod(value.shape.numpy()[1:]) if value.shape is not None else 0
    restored = make_node("DequantizeLinear", [q, scale, zero], {"axis": 1, "block_size": scheme.group_for(width)})
    shaped = make_node("Reshape", [restored.outputs[0], shape])
    graph.insert_before(conv, [restored, shaped])
    conv.replace_input_with(1, shaped.outputs[0])


def emit_float(
    graph: ir.Graph, order: dict[ir.Node, int], value: ir.Value, parts: list[ir.Value], scheme: Scheme
) -> None:
    """The float itself; float16 goes through a Cast that onnxruntime folds at load."""
    (wide,) = parts
    if wide.dtype == ir.DataType.FLOAT16:
        wide = widened(graph, wide, min((n for n, _ in value.uses()), key=lambda n: order[n]))
    else:
        register(graph, wide)
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
