"""Any ONNX graph -> the form that `rewrite` reads: one float weight for each layer that can have integers.

Weights lie in a graph as [N, K] or [K, N], behind a Transpose, in Constant nodes, in several readers at once, as Gemm
with factors. Here all of it becomes Transpose -> MatMul, Conv or Gather, as captured graphs have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from qsched_edge.errors import QuantizeError
from qsched_edge.foreign.casts import bypass_casts, restore_cast
from qsched_edge.foreign.graph_weights import GraphWeights
from qsched_edge.foreign.opset import opset_of, upgraded
from qsched_edge.foreign.reasons import reason_by_bytes, reason_by_place, reason_by_readers, reason_by_values
from qsched_edge.precision import Scheme
from qsched_edge.quantize.layers.kind import LayerKind, Use
from qsched_edge.quantize.layers.other import SMALL_WEIGHT
from qsched_edge.quantize.layers.readers import uses_of

PART_NAMES = ("q", "scale", "zero", "shape")  # what the encoders append to a weight's name


@dataclass(frozen=True)
class Left:
    """A weight that stays as it is, with the reason."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    reason: str


@dataclass(frozen=True)
class PreparedGraph:
    """A model whose initializers `names` are to be replaced by what a plan makes of `weights`; `taken` are names that
    its values have."""

    model: ir.Model
    taken: set[str]
    weights: GraphWeights = field(default_factory=GraphWeights)
    names: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def prepared_graph(model: ir.Model, scheme: Scheme) -> PreparedGraph:
    """Find what `scheme` can quantize and bring it into the one form; the rest is listed with reasons."""
    casts = bypass_casts(model.graph)
    model, unconverted = at_fitting_opset(model, scheme)
    prepared = PreparedGraph(model, names_of(model), left=subgraph_weights(model))
    for value in list(model.graph.initializers.values()):
        uses = uses_of(value, model.graph)
        reason = reason_of(value, uses, model.graph, scheme, unconverted)
        if reason:
            prepared.left.append(left_alone(value, reason))
            if value.name in casts:
                restore_cast(model.graph, value)
        elif scheme.is_integer:
            split(prepared, value, uses)
        else:
            declare_float(prepared, value)
    model.ir_version = max(model.ir_version or 0, 10 if scheme.is_integer else 8)
    return prepared


def reason_of(
    value: ir.Value, uses: list[Use], graph: ir.Graph, scheme: Scheme, unconverted: Mapping[LayerKind, str]
) -> str:
    """Why a weight is left as it is, or nothing; its values are read only where all else lets it go."""
    tensor = value.const_value
    assert tensor is not None
    if not scheme.is_integer:
        return reason_by_place(value, graph) or reason_by_values(tensor, scheme)
    reason = reason_by_readers(value, graph)
    reason = reason or next((unconverted[use.kind] for use in uses if use.kind and use.kind in unconverted), "")
    return reason or reason_by_bytes(tensor, uses, scheme) or reason_by_values(tensor, scheme)


def names_of(model: ir.Model) -> set[str]:
    """Names of all initializers, inputs and results, also those of subgraphs."""
    found = {name for graph in model.graphs() for name in graph.initializers}
    found |= {str(value.name) for value in model.graph.inputs}
    return found | {str(v.name) for node in ir.traversal.RecursiveGraphIterator(model.graph) for v in node.outputs}


def at_fitting_opset(model: ir.Model, scheme: Scheme) -> tuple[ir.Model, dict[LayerKind, str]]:
    """The model at an opset that has all operators, or as it is with the reasons why some kinds must stay."""
    needed = needed_opsets(model, scheme) if scheme.is_integer else {}
    if all(opset <= opset_of(model) for opset in needed.values()):
        return model, {}
    try:
        return upgraded(model, max(needed.values())), {}
    except QuantizeError as error:
        return model, {kind: f"{kind.noun}, and {error}" for kind, o in needed.items() if o > opset_of(model)}


def needed_opsets(model: ir.Model, scheme: Scheme) -> dict[LayerKind, int]:
    """For each kind of layer among the weights that can have integers."""
    found: dict[LayerKind, int] = {}
    for value in model.graph.initializers.values():
        if reason_by_readers(value, model.graph):
            continue
        for use in uses_of(value, model.graph):
            if use.kind:
                found[use.kind] = max(use.kind.opset(scheme, value.dtype), found.get(use.kind, 0))
    return found


def left_alone(value: ir.Value, reason: str) -> Left:
    tensor = value.const_value
    assert tensor is not None
    return Left(str(value.name), tensor.dtype.name, tuple(tensor.shape.numpy()), int(tensor.nbytes), reason)


def subgraph_weights(model: ir.Model) -> list[Left]:
    values = [value for graph in model.graph.subgraphs() for value in graph.initializers.values()]
    large = [v for v in values if v.const_value is not None and v.const_value.size >= SMALL_WEIGHT]
    return [left_alone(value, "inside a subgraph (If, Loop or Scan)") for value in large]


def split(prepared: PreparedGraph, value: ir.Value, uses: list[Use]) -> None:
    """One weight for each way it is read: a table that is also an output projection is stored as both."""
    readers = list(zip(value.uses(), uses, strict=True))
    for number, use in enumerate(dict.fromkeys(uses)):
        assert use.kind is not None
        name = str(value.name) if number == 0 else f"{value.name}_{use.kind.name}{'_t' * use.transposed}"
        nodes = list(dict.fromkeys(node for (node, _), found in readers if found == use))
        use.kind.attach(prepared.model.graph, stand_in(prepared, value, name, use.transposed), nodes)


def declare_float(prepared: PreparedGraph, value: ir.Value) -> None:
    """Take the values out of the graph; the initializer keeps its name, shape and type."""
    assert value.const_value is not None
    prepared.weights.add(str(value.name), value.const_value)
    prepared.names.append(str(value.name))
    value.const_value = None


def stand_in(prepared: PreparedGraph, value: ir.Value, name: str, transposed: bool) -> ir.Value:
    """A new initializer for the values of another one, which goes when its last reader has left."""
    graph, tensor = prepared.model.graph, value.const_value
    assert tensor is not None
    if graph.initializers.get(str(value.name)) is value:
        del graph.initializers[str(value.name)]
    while (name in prepared.taken and name != value.name) or any(f"{name}_{r}" in prepared.taken for r in PART_NAMES):
        name += "_"
    prepared.weights.add(name, tensor, transposed)
    prepared.names.append(name)
    dtype = value.dtype or tensor.dtype
    new = ir.Value(name=name, shape=ir.Shape(prepared.weights.shape(name)), type=ir.TensorType(dtype))
    graph.initializers[name] = new
    return new
