"""Intel Neural Compressor on a whole 32-bit graph: for the methods that no weight can go through alone.

Neural Compressor 3.7 wants a graph of its own folder without shared tensors, value_info or unnamed nodes, whose
weights are constants and not transposed ones; it says in its log what went wrong and returns None.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from qsched_runtime.sessions import Feeds

from qsched_edge.errors import QuantizeError
from qsched_edge.quantize.feeds import read_feeds, spread
from qsched_edge.quantize.neural_compressor import quant_tensor

if TYPE_CHECKING:
    import onnx

ALPHA = 0.5  # how much of the activations' range SmoothQuant moves into the weights (arXiv 2211.10438)
SCALED_CALLS = 16  # recorded calls, spread over the trajectory, that fix the scales
LARGEST_WHOLE = 2**31 - 2**26  # bytes of a graph: Neural Compressor holds it as one protobuf message
LAYER_OPERATORS = ("MatMul", "Conv", "Gemm")
INTEGER_TYPES = (2, 3)  # TensorProto.UINT8, INT8
KEPT_FLOAT = {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}
OTHERS = {r"^(?!(MatMul|Conv|Gemm)$).*": KEPT_FLOAT}  # operator types that stay in float
STATIC = {"approach": "static", "quant_format": "QDQ", "op_type_dict": OTHERS, "reduce_range": False}
SMOOTHQUANT = {**STATIC, "recipes": {"smooth_quant": True, "smooth_quant_args": {"alpha": ALPHA}}}


@dataclass(frozen=True)
class CompressorGraph:
    """The graph that Neural Compressor gets; its layers carry the names of their weights."""

    path: Path
    nodes: tuple[onnx.NodeProto, ...]
    types: Mapping[str, np.dtype[Any]]

    @property
    def layers(self) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.name in node.input]

    def operators(self, chosen: Callable[[str], bool]) -> list[str]:
        """Neural Compressor's names of the layers whose weight is `chosen`: it makes a MatMul and an Add of a Gemm."""
        suffix = {"Gemm": "_MatMul"}
        return [f"{node.name}{suffix.get(node.op_type, '')}" for node in self.layers if chosen(node.name)]


@dataclass(frozen=True)
class CompressorFeeds:
    """Recorded feeds as Neural Compressor reads them: (inputs, label) and a `batch_size`."""

    files: Sequence[Path]
    types: Mapping[str, np.dtype[Any]]
    batch_size: int = 1

    def __iter__(self) -> Iterator[tuple[Feeds, None]]:
        for path in self.files:
            given = read_feeds(path)
            yield {name: np.asarray(given[name], dtype) for name, dtype in self.types.items()}, None


def smoothquant(graph: Path, feeds: Sequence[Path], kept: Callable[[str], bool], target: Path) -> list[str]:
    """Write `target` and its data: linear layers and convolutions in INT8 with fixed scales (QDQ), after SmoothQuant.

    `graph` is the 32-bit graph, `feeds` recorded inputs; weights that are `kept` stay floats. Returns the names of the
    weights that became integers. Raises QuantizeError for a graph of 2 GiB and where Neural Compressor fails.
    """
    import onnx_ir as ir

    size = sum(file.stat().st_size for file in graph.parent.glob(f"{graph.name}*"))
    if size > LARGEST_WHOLE:
        raise QuantizeError(
            f"smoothquant takes the whole 32-bit graph, at most {LARGEST_WHOLE / 1e9:.1f} GB, and "
            f"{graph.parent.name} has {size / 1e9:.1f} GB: use rtn, mse or gptq"
        )
    with TemporaryDirectory(dir=target.parent) as folder:
        source = compressor_graph(graph, Path(folder) / "whole.onnx")
        floats = dict.fromkeys(source.operators(kept), KEPT_FLOAT)
        model = fitted(source, {**SMOOTHQUANT, "op_name_dict": floats}, spread(alike(feeds), SCALED_CALLS))
    slim(model)
    ir.save(ir.from_proto(model), target, external_data=f"{target.name}_data")
    return integer_layers(model, source)


def alike(feeds: Sequence[Path]) -> list[Path]:
    """Those of the first one's shapes: Neural Compressor stacks what a layer is given, and a last batch is smaller."""
    shapes = [{name: array.shape for name, array in read_feeds(path).items()} for path in feeds]
    return [path for path, found in zip(feeds, shapes, strict=True) if found == shapes[0]]


def slim(model: onnx.ModelProto) -> None:
    """Drop what nothing reads: names of nodes, notes of shapes, and the scales that are in the weights by now."""
    for node in model.graph.node:
        node.ClearField("name")
    read = {name for node in model.graph.node for name in node.input}
    put(model.graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name in read])
    put(model.graph.value_info, ())


def compressor_graph(graph: Path, target: Path) -> CompressorGraph:
    """Write the 32-bit graph as Neural Compressor wants it to `target`."""
    import onnx

    model = onnx.load(graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if not folded(node, constants)]
    read: dict[str, onnx.TensorProto] = {}
    for number, node in enumerate(nodes):
        for i, name in enumerate(node.input):
            if name in constants:
                copy = onnx.TensorProto()
                copy.CopyFrom(constants[name])
                copy.name = node.input[i] = copy.name if copy.name not in read else f"{copy.name}_{number}"
                read[copy.name] = copy
        named = node.op_type in LAYER_OPERATORS and node.input[1] in read
        node.name = node.input[1] if named else f"{node.op_type}_{number}"
    put(model.graph.node, nodes)
    put(model.graph.initializer, read.values())
    put(model.graph.value_info, ())
    onnx.save(model, target)
    types = {i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in model.graph.input}
    return CompressorGraph(target, tuple(nodes), types)


def folded(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether the node does nothing but transpose a constant; if so, the result is one too and keeps its name."""
    from onnx import numpy_helper

    if node.op_type != "Transpose" or node.input[0] not in constants:
        return False
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
    values = numpy_helper.to_array(constants[node.input[0]]).transpose(order)
    constants[node.output[0]] = numpy_helper.from_array(np.ascontiguousarray(values), constants[node.input[0]].name)
    return True


def put(field: Any, values: Iterable[Any]) -> None:
    """Replace what a repeated protobuf field holds."""
    found = list(values)
    del field[:]
    field.extend(found)


def fitted(source: CompressorGraph, config: Mapping[str, Any], feeds: Sequence[Path]) -> onnx.ModelProto:
    """What Neural Compressor makes of the graph; `config` are PostTrainingQuantConfig's arguments.

    Raises QuantizeError where it returns nothing.
    """
    quant_tensor()  # mends the import of its package
    import neural_compressor
    import onnxruntime
    from neural_compressor import PostTrainingQuantConfig, quantization

    calibration = CompressorFeeds(feeds, source.types)
    onnxruntime.set_default_logger_severity(3)  # its sessions warn of each scale that nothing reads
    log = logging.getLogger("neural_compressor")
    level = log.level
    log.setLevel(logging.ERROR)
    neural_compressor.set_workspace(str(source.path.parent))
    try:
        with redirect_stdout(io.StringIO()):  # it draws bars there
            settings = PostTrainingQuantConfig(**config, calibration_sampling_size=[len(feeds)])
            found = quantization.fit(str(source.path), settings, calib_dataloader=calibration)
    finally:
        log.setLevel(level)
    if found is None:
        raise QuantizeError(f"Intel Neural Compressor could not quantize {source.path.name}: its log above says why")
    used = {node.domain for node in found.model.graph.node}
    put(found.model.opset_import, [opset for opset in found.model.opset_import if opset.domain in used])
    return found.model


def integer_layers(model: onnx.ModelProto, source: CompressorGraph) -> list[str]:
    """Names of the weights that the quantized `model` holds as integers: its tensors are called WEIGHT_suffix."""
    integers = [t.name for t in model.graph.initializer if t.data_type in INTEGER_TYPES and len(t.dims) > 1]
    return [node.name for node in source.layers if any(name.startswith(f"{node.name}_") for name in integers)]
