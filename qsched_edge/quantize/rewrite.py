"""A graph and its weights -> a graph on disk, every weight in the precision the plan gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx_ir as ir

from qsched_edge.capture.graph import Captured
from qsched_edge.checkpoint.weights import WeightSource
from qsched_edge.errors import QuantizeError
from qsched_edge.precision import Scheme
from qsched_edge.quantize.emit import CONTRIB, Site
from qsched_edge.quantize.encode import WeightRows
from qsched_edge.quantize.layers.other import OTHER
from qsched_edge.quantize.layers.readers import kind_of
from qsched_edge.quantize.layers.registry import stored_as
from qsched_edge.quantize.methods import quantizer_of
from qsched_edge.quantize.moments import Moments
from qsched_edge.quantize.store import TensorStore
from qsched_edge.work.memory import RamLimit

GRAPH, DATA, REPORT = "model.onnx", "model.onnx_data", "quantization.json"


@dataclass(frozen=True)
class Layer:
    """What became of a weight: its kind ("linear", "conv", "embedding", "other"), shape, scheme name, stored bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    precision: str
    bytes: int


@dataclass(frozen=True)
class WeightPlan:
    """What becomes of weights: their values, the scheme by (name, kind), the memory, moments of their inputs."""

    weights: WeightSource
    scheme_of: Callable[[str, str], Scheme]
    ram: RamLimit = RamLimit()  # noqa: RUF009 (frozen)
    moments_of: Callable[[str], Moments | None] = lambda name: None


def write_graph(
    captured: Captured,
    weights: WeightSource,
    scheme_of: Callable[[str, str], Scheme],
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
        plan = WeightPlan(weights, scheme_of, ram, moments_of)
        layers = replace_weights(graph, captured.weight_names, plan, store, advance)
    for value in (*graph.inputs, *graph.outputs):
        name_axes(value)
    captured.model.opset_imports[CONTRIB] = 1
    ir.save(captured.model, folder / GRAPH)
    return layers


def replace_weights(
    graph: ir.Graph,
    names: Iterable[str],
    plan: WeightPlan,
    store: TensorStore,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Layer]:
    """Take the initializers `names` out of the graph and put what the plan makes of them into their places."""
    order, layers = {node: i for i, node in enumerate(graph)}, []
    for name in names:
        value = graph.initializers.pop(name)
        shape, kind = checked_shape(plan.weights, value), kind_of(value, graph)
        site = Site(graph, order, value, plan.scheme_of(name, kind.name))
        role = stored_as(kind, site.scheme)
        if role is not OTHER:
            quantizer_of(site.scheme.method)  # what it imports counts before the room that is left
        rows = WeightRows(plan.weights, name, shape, plan.ram.chunk(), plan.moments_of(name))
        stored = store.weight(name, lambda role=role, rows=rows, site=site: role.encode(rows, site.scheme))  # type: ignore[misc]
        precision = role.precision(site)
        role.emit(site, [store.value(s) for s in stored])
        layers.append(Layer(name, kind.name, shape, precision, sum(s.size for s in stored)))
        advance(2 * prod(shape))
    return layers


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
