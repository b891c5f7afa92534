"""Any ONNX graph -> the form that `rewrite` reads: one float weight for each layer that can have integers.

Weights lie in a graph as [N, K] or [K, N], behind a Transpose, in Constant nodes, in several readers at once, as Gemm
with factors. Here all of it becomes Transpose -> MatMul, Conv or Gather, as captured graphs have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from qsched_edge.errors import QuantizeError
from qsched_edge.foreign.casts import bypass_casts, restore_cast
from qsched_edge.foreign.fitness import reason_by_bytes, reason_by_values
from qsched_edge.foreign.graph_weights import GraphWeights
from qsched_edge.foreign.opset import (
    BLOCKED_OPSET,
    PER_AXIS_FLOAT16_OPSET,
    PER_AXIS_OPSET,
    opset_of,
    upgraded,
)
from qsched_edge.foreign.uses import Use, reason_to_leave, uses_of
from qsched_edge.precision import CHANNEL, Scheme
from qsched_edge.quantize.emit import first_of, make_node, replace
from qsched_edge.quantize.encode import SMALL

ROLES = ("q", "scale", "zero", "shape")  # what the encoders append to a weight's name


@dataclass(frozen=True)
class Left:
    """A weight that stays as it is, with the reason."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    reason: str


@dataclass(frozen=True)
class Prepared:
    """A model whose initializers `names` are to be replaced by what a plan makes of `weights`; `taken` are names that
    its values have."""

    model: ir.Model
    taken: set[str]
    weights: GraphWeights = field(default_factory=GraphWeights)
    names: list[str] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def prepare(model: ir.Model, scheme: Scheme) -> Prepared:
    """Find what `scheme` can quantize and bring it into the one form; the rest is listed with reasons."""
    casts = bypass_casts(model.graph)
    model, unconverted = for_convolutions(model, scheme)
    prepared = Prepared(model, names_of(model), left=subgraph_weights(model))
    for value in list(model.graph.initializers.values()):
        uses = uses_of(value, model.graph)
        reason = reason_of(value, uses, model.graph, scheme, unconverted)
        if reason:
            prepared.left.append(left(value, reason))
            if value.name in casts:
                restore_cast(model.graph, value)
        elif scheme.is_integer:
            split(prepared, value, uses)
        else:
            declare(prepared, value)
    model.ir_version = max(model.ir_version or 0, 10 if scheme.is_integer else 8)
    return prepared


def reason_of(value: ir.Value, uses: list[Use], graph: ir.Graph, scheme: Scheme, unconverted: str) -> str:
    """Why a weight is left as it is, or nothing; its values are read only where all else lets it go."""
    tensor = value.const_value
    assert tensor is not None
    if not scheme.is_integer:
        return float_reason(value, graph) or reason_by_values(tensor, scheme)
    reason = reason_to_leave(value, graph)
    if not reason and any(use.kind == "conv" for use in uses):
        reason = unconverted
    return reason or reason_by_bytes(tensor, uses, scheme) or reason_by_values(tensor, scheme)


def names_of(model: ir.Model) -> set[str]:
    """Names of all initializers, inputs and results, also those of subgraphs."""
    found = {name for graph in model.graphs() for name in graph.initializers}
    found |= {str(value.name) for value in model.graph.inputs}
    return found | {str(v.name) for node in ir.traversal.RecursiveGraphIterator(model.graph) for v in node.outputs}


def for_convolutions(model: ir.Model, scheme: Scheme) -> tuple[ir.Model, str]:
    """The model at an opset whose DequantizeLinear fits, or as it is with the reason why convolutions must stay."""
    per_axis = scheme.group_size == CHANNEL and scheme.weight_bits == 8
    weights = [v for v in model.graph.initializers.values() if not reason_to_leave(v, model.graph)]
    types = {v.dtype for v in weights if any(use.kind == "conv" for use in uses_of(v, model.graph))}
    half = ir.DataType.FLOAT16 in types
    needed = (PER_AXIS_FLOAT16_OPSET if half else PER_AXIS_OPSET) if per_axis else BLOCKED_OPSET
    if opset_of(model) >= needed or not types or not scheme.is_integer:
        return model, ""
    try:
        return upgraded(model, needed), ""
    except QuantizeError as error:
        return model, f"a convolution, and {error}"


def float_reason(value: ir.Value, graph: ir.Graph) -> str:
    """For schemes of 16 bits: only float32 weights that the graph itself reads can be halved."""
    tensor = value.const_value
    assert tensor is not None
    if tensor.dtype != ir.DataType.FLOAT:
        return f"{tensor.dtype.name}: no float32 weight"
    if tensor.size < SMALL:
        return f"fewer than {SMALL:,} values"
    if not value.uses():
        return "read by nothing"
    if value.is_graph_output():
        return "an output of the graph"
    if any(node.graph is not graph for node, _ in value.uses()):
        return "read inside a subgraph (If, Loop or Scan)"
    return ""


def left(value: ir.Value, reason: str) -> Left:
    tensor = value.const_value
    assert tensor is not None
    return Left(str(value.name), tensor.dtype.name, tuple(tensor.shape.numpy()), int(tensor.nbytes), reason)


def subgraph_weights(model: ir.Model) -> list[Left]:
    values = [value for graph in model.graph.subgraphs() for value in graph.initializers.values()]
    large = [v for v in values if v.const_value is not None and v.const_value.size >= SMALL]
    return [left(value, "inside a subgraph (If, Loop or Scan)") for value in large]


def split(prepared: Prepared, value: ir.Value, uses: list[Use]) -> None:
    """One weight for each way it is read: a table that is also an output projection is stored as both."""
    readers = list(zip(value.uses(), uses, strict=True))
    for number, use in enumerate(dict.fromkeys(uses)):
        name = str(value.name) if number == 0 else f"{value.name}_{use.kind}{'_t' * use.transposed}"
        nodes = list(dict.fromkeys(node for (node, _), found in readers if found == use))
        (attach_linear if use.kind == "linear" else attach)(prepared, value, name, use, nodes)


def declare(prepared: Prepared, value: ir.Value) -> None:
    """Take the values out of the graph; the initializer keeps its name, shape and type."""
    assert value.const_value is not None
    prepared.weights.add(str(value.name), value.const_value)
    prepared.names.append(str(value.name))
    value.const_value = None


def stand_in(prepared: Prepared, value: ir.Value, name: str, transposed: bool = False) -> ir.Value:
    """A new initializer for the values of another one, which goes when its last reader has left."""
    graph, tensor = prepared.model.graph, value.const_value
    assert tensor is not None
    if graph.initializers.get(str(value.name)) is value:
        del graph.initializers[str(value.name)]
    while (name in prepared.taken and name != value.name) or any(f"{name}_{r}" in prepared.taken for r in ROLES):
        name += "_"
    prepared.weights.add(name, tensor, transposed)
    prepared.names.append(name)
    dtype = value.dtype or tensor.dtype
    new = ir.Value(name=name, shape=ir.Shape(prepared.weights.shape(name)), type=ir.TensorType(dtype))
    graph.initializers[name] = new
    return new


def attach(prepared: Prepared, value: ir.Value, name: str, use: Use, nodes: list[ir.Node]) -> None:
    """Let the convolutions or Gathers `nodes` read a weight of their own."""
    new = stand_in(prepared, value, name)
    for node in nodes:
        node.replace_input_with(1 if use.kind == "conv" else 0, new)


def attach_linear(prepared: Prepared, value: ir.Value, name: str, use: Use, nodes: list[ir.Node]) -> None:
    """Let the products `nodes` (or those behind their Transposes) read Transpose(W), W [N, K]."""
    graph, dtype = prepared.model.graph, value.dtype or ir.DataType.FLOAT
    turned = make_node("Transpose", [stand_in(prepared, value, name, use.transposed)])
    graph.insert_before(nodes[0] if len(nodes) == 1 else first_of(graph, nodes), turned)
    for node in nodes:
        products = [node] if node.op_type != "Transpose" else [n for n, _ in node.outputs[0].uses()]
        for product in products:
            if product.op_type == "Gemm":
                replace(graph, product, gemm_as_matmul(product, turned.outputs[0], dtype))
            else:
                product.replace_input_with(1, turned.outputs[0])
        if node.op_type == "Transpose":
            graph.remove(node, safe=True)


def gemm_as_matmul(gemm: ir.Node, weight: ir.Value, dtype: ir.DataType) -> list[ir.Node]:
    """alpha A' B' + beta C in the operators it stands for; `weight` is B' [K, N]."""
    nodes: list[ir.Node] = []

    def then(op_type: str, *inputs: ir.Value | None) -> ir.Value:
        nodes.append(make_node(op_type, inputs))
        return nodes[-1].outputs[0]

    def scaled(x: ir.Value | None, factor: float) -> ir.Value | None:
        if factor == 1.0:
            return x
        nodes.append(ir.node("Constant", [], {"value": ir.tensor(dtype.numpy().type(factor), dtype=dtype)}))
        return then("Mul", x, nodes[-1].outputs[0])

    x, _, *bias = gemm.inputs
    product = then("MatMul", then("Transpose", x) if gemm.attributes.get_int("transA", 0) else x, weight)
    product = scaled(product, gemm.attributes.get_float("alpha", 1.0))  # type: ignore[assignment]
    if bias and bias[0] is not None:
        then("Add", product, scaled(bias[0], gemm.attributes.get_float("beta", 1.0)))
    return nodes
