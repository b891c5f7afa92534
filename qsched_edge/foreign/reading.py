"""Reading any ONNX graph: external data and opsets checked, functions inlined, weights where they can be found."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from qsched_edge.errors import QuantizeError, WeightsError
from qsched_edge.foreign.graph_weights import check_external
from qsched_edge.foreign.opset import opset_of
from qsched_edge.quantize.layers.other import SMALL_WEIGHT

OLDEST_OPSET = 11


def read_graph(path: Path) -> ir.Model:
    """Read a graph of opset 11 or newer, its functions inlined and its large Constant nodes initializers."""
    import onnx
    from onnx_ir.passes import common

    if not path.is_file():
        raise WeightsError(f"no graph at {path}: the file does not exist")
    try:
        proto = onnx.load(path, load_external_data=False)
        model = ir.from_proto(proto)
    except Exception as error:  # protobuf, onnx and onnx_ir raise from unrelated classes
        raise WeightsError(f"{path} cannot be read as ONNX ({type(error).__name__}): give an .onnx file") from error
    sparse = [tensor.values.name for tensor in proto.graph.sparse_initializer]
    if sparse:
        raise QuantizeError(f"{path} has sparse initializers, which are not read: {', '.join(sparse)[:200]}")
    ir.external_data.set_base_dir(model.graph, path.parent)
    check_external(model, path.parent)
    name_domain(model)
    if opset_of(model) < OLDEST_OPSET:
        raise QuantizeError(f"{path} has opset {opset_of(model)}: convert it to {OLDEST_OPSET} or newer first")
    common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(size_limit=SMALL_WEIGHT)(model)
    common.RemoveInitializersFromInputsPass()(model)
    bypass_identities(model.graph)
    return model


def name_domain(model: ir.Model) -> None:
    """Some exporters call the default domain by its other name."""
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        if "ai.onnx" in imports:
            imports[""] = imports.pop("ai.onnx")


def bypass_identities(graph: ir.Graph) -> None:
    """Exporters share a weight through Identity nodes."""
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Identity" and not node.domain else None
        if source is not None and source.is_initializer() and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(source)
            graph.remove(node, safe=True)
