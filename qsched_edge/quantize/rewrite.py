"""A graph and its weights -> a graph on disk, every weight in the precision the plan gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import onnx_ir as ir

from qsched_edge.capture.graph import Captured
from qsched_edge.checkpoint.weights import WeightSource
from qsched_edge.errors import QuantizeError
from qsched_edge.precision import Scheme
from qsched_edge.quantize.emit import CONTRIB, EMITTERS, Site, rounds_activations
from qsched_edge.quantize.encode import ENCODERS, WeightRows, float_bits
from qsched_edge.quantize.methods import method
from qsched_edge.quantize.moments import Moments
from qsched_edge.quantize.store import TensorStore
from qsched_edge.work.memory import RamLimit

GRAPH, DATA = "model.onnx", "model.onnx_data"
TABLE = 2**17  # tables with fewer values (positions, attention biases) stay floats: little to save, much to lose


@dataclass(frozen=True)
class Layer:
    """What became of a weight: its kind ("linear", "conv", "embedding", "other"), shape, scheme name, stored bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    precision: str
    bytes: int


Plan = Callable[[str, str], Scheme]  # (weight name, kind) -> scheme


def write_graph(
    captured: Captured,
    weights: WeightSource,
    plan: Plan,
    folder: Path,
    advance: Callable[[int], None] = lambda n: None,
    ram: RamLimit = RamLimit(),  # noqa: B008 (frozen)
    moments_of: Callable[[str], Moments | None] = lambda name: None,
) -> list[Layer]:
    """Stream every weight into `folder`/model.onnx + model.onnx_data; `advance` hears the bytes read (2 a value).

    Linear weights become MatMulNBits, convolutions a DequantizeLinear before Conv, tables GatherBlockQuantized, the
    rest floats of the plan's width. Raises WeightsError for a tensor that is missing, QuantizeError for one of another
    shape. A folder with an interrupted run's data is carried on.
    """
    graph = captured.model.graph
    with TensorStore(folder, DATA) as store:
        layers = replace_weights(graph, captured.weight_names, weights, plan, store, advance, ram, moments_of)
    for value in (*graph.inputs, *graph.outputs):
        name_axes(value)
    captured.model.opset_imports[CONTRIB] = 1
    ir.save(captured.model, folder / GRAPH)
    return layers


def replace_weights(
    graph: ir.Graph,
    names: Iterable[str],
    weights: WeightSource,
    plan: Plan,
    store: TensorStore,
    advance: Callable[[int], None] = lambda n: None,
    ram: RamLimit = RamLimit(),  # noqa: B008 (frozen)
    moments_of: Callable[[str], Moments | None] = lambda name: None,
) -> list[Layer]:
    """Take the initializers `names` out of the graph and put what the plan makes of them into their places."""
    order, layers = {node: i for i, node in enumerate(graph)}, []
    for name in names:
        value = graph.initializers.pop(name)
        shape, kind = checked_shape(weights, value), kind_of(value)
        site = Site(graph, order, value, plan(name, kind))
        role = kind if site.scheme.is_integer else "other"
        if role != "other":
            method(site.scheme.method)  # what it imports counts before the room that is left
        rows = WeightRows(weights, name, shape, ram.chunk(), moments_of(name))
        stored = store.weight(name, lambda role=role, rows=rows, site=site: ENCODERS[role](rows, site.scheme))  # type: ignore[misc]
        precision = precision_name(role, site)
        EMITTERS[role](site, [store.value(s) for s in stored])
        layers.append(Layer(name, kind, shape, precision, sum(s.size for s in stored)))
        advance(2 * prod(shape))
    return layers


def precision_name(role: str, site: Site) -> str:
    """What is really there: a table has no activations, and what is no layer is a float whatever the plan says."""
    if role == "other":
        return f"FP{float_bits(site.shape, site.scheme)}"
    if role == "embedding" or (role == "conv" and not rounds_activations(site)):
        return replace(site.scheme, activation_bits=16).name
    return site.scheme.name


def checked_shape(weights: WeightSource, value: ir.Value) -> tuple[int, ...]:
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
    """The kind that all readers of a weight agree on, else "other"."""
    kinds = {kind_of_use(value, node, index) for node, index in value.uses()}
    return kinds.pop() if len(kinds) == 1 else "other"


def kind_of_use(value: ir.Value, node: ir.Node, index: int) -> str:
    if node.op_type in ("Conv", "ConvTranspose") and index == 1:
        return "conv"
    if node.op_type == "Gemm" and index == 1 and node.attributes["transB"].as_int() == 1:
        return "linear"
    if node.op_type == "Transpose" and all(n.op_type == "MatMul" and i == 1 for n, i in node.outputs[0].uses()):
        return "linear"
    if is_table(value) and node.op_type == "Gather" and index == 0 and node.attributes.get_int("axis", 0) == 0:
        return "embedding"
    return "other"


def is_table(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.rank() == 2 and prod(value.shape.numpy()) >= TABLE
