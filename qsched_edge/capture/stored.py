"""A captured graph on disk: an ONNX file whose weights have a name, a type and a shape, and lie nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from qsched_edge.capture.graph import Captured
from qsched_edge.work.staging import write_json

if TYPE_CHECKING:
    import onnx_ir as ir

TRACED, PORTS = "graph.onnx", "ports.json"
NOWHERE = "weights"  # where the graph's weights would lie; no such file is written


def save(captured: Captured, folder: Path) -> None:
    """Write the graph and its ports into `folder`; `captured` stays as it is."""
    import onnx_ir as ir

    model = captured.model
    weights = [model.graph.initializers[name] for name in captured.weight_names]
    for value in weights:
        assert value.dtype is not None
        assert value.shape is not None
        value.const_value = ir.ExternalTensor(NOWHERE, 0, 0, value.dtype, shape=value.shape, name=str(value.name))
    ir.save(model, folder / TRACED)
    for value in weights:
        value.const_value = None
    write_json(folder / PORTS, {"inputs": captured.inputs, "outputs": captured.outputs, "named": counters(model.graph)})


def load(folder: Path) -> Captured:
    """The graph as it was when it had just been captured: nodes that are added to it get the same names."""
    import onnx_ir as ir

    ports = json.loads((folder / PORTS).read_text("utf-8"))
    model = ir.load(folder / TRACED)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = None
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = value.shape.copy() if value.shape is not None else None  # what is read is frozen
    for node in model.graph:
        node.name = None
    names = model.graph._name_authority
    names._value_counter, names._node_counter = ports["named"]
    return Captured(model, tuple(ports["inputs"]), tuple(ports["outputs"]))


def counters(graph: ir.Graph) -> tuple[int, int]:
    """How many values and nodes the graph has numbered so far; onnx_ir tells it nobody else."""
    names = graph._name_authority
    return names._value_counter, names._node_counter
