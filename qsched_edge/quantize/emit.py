"""A weight in its graph, and how operators that read stored tensors get into the place of those that read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from qsched_edge.precision import Scheme

CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class Site:
    """A weight in its graph; `order` ranks the graph's nodes as they stand."""

    graph: ir.Graph
    order: dict[ir.Node, int]
    value: ir.Value
    scheme: Scheme

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.value.shape is not None
        return tuple(int(d) for d in self.value.shape.numpy())

    @property
    def dtype(self) -> ir.DataType:
        """What the graph computes with: FLOAT or FLOAT16."""
        return ir.DataType.FLOAT16 if self.value.dtype == ir.DataType.FLOAT16 else ir.DataType.FLOAT

    def first(self, nodes: Iterable[ir.Node]) -> ir.Node:
        return min(nodes, key=lambda node: self.order[node])

    def readers(self) -> list[ir.Node]:
        return sorted({node for node, _ in self.value.uses()}, key=lambda node: self.order[node])

    def register(self, *values: ir.Value) -> None:
        for value in values:
            self.graph.register_initializer(value)

    def widened(self, stored: ir.Value, before: ir.Node) -> ir.Value:
        """A stored float in the graph's type; the Cast is folded when onnxruntime loads the graph."""
        self.register(stored)
        if stored.dtype == self.dtype:
            return stored
        cast = make_node("Cast", [stored], {"to": self.dtype.value})
        self.graph.insert_before(before, cast)
        return cast.outputs[0]


def make_node(
    op_type: str, inputs: Iterable[ir.Value | None], attributes: dict[str, int] | None = None, domain: str = ""
) -> ir.Node:
    return ir.node(op_type, list(inputs), attributes or {}, domain=domain)


def replace_node(graph: ir.Graph, node: ir.Node, nodes: list[ir.Node]) -> None:
    """Put `nodes` in the place of `node`; the last one's output takes over its name and its readers."""
    graph.insert_before(node, nodes)
    old, new = node.outputs[0], nodes[-1].outputs[0]
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, new.shape, new.type = old.name, old.shape, old.type
    graph.remove(node, safe=True)


def first_of(graph: ir.Graph, nodes: Sequence[ir.Node]) -> ir.Node:
    wanted = set(nodes)
    return next(node for node in graph if node in wanted)
