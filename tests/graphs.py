"""ONNX graphs made by hand, as other exporters write them, and what their weights become by the definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from qsched_edge.precision import Scheme
from qsched_edge.quantize.neural_compressor import round_to_nearest

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[str, Sequence[int | str]]],
    initializers: dict[str, np.ndarray],
    opset: int = 17,
    dtype: str = "float32",
) -> onnx.ModelProto:
    """A model whose only output is `y`."""
    graph = helper.make_graph(
        list(nodes),
        "made",
        [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", TYPES[dtype], None)],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, producer_name="by hand")


def saved(proto: onnx.ModelProto, path: Path) -> Path:
    onnx.save(proto, path)
    return path


def run(path: Path | onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    source = path if isinstance(path, Path) else path.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(["y"], feeds)[0]


def restored(matrix: np.ndarray, scheme: Scheme) -> np.ndarray:
    """What rows of weights become by the definition w = (q - zero) scale, in float64."""
    found = round_to_nearest(matrix.reshape(len(matrix), -1).astype(np.float32), scheme)
    columns = np.arange(found.q.shape[1]) // found.group_size
    zero, scale = found.zero.astype(np.float64)[:, columns], found.scale.astype(np.float64)[:, columns]
    return ((found.q.astype(np.float64) - zero) * scale).reshape(matrix.shape)


def with_weights(proto: onnx.ModelProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The same graph with other values in some initializers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for tensor in changed.graph.initializer:
        if tensor.name in weights:
            array = weights[tensor.name].astype(numpy_helper.to_array(tensor).dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return changed


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
