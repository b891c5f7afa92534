"""Packed convolutions are read by the faster operator at load: the same floats, nothing else changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import saved
from onnx import TensorProto, helper, numpy_helper
from qsched_runtime import sessions
from qsched_runtime.errors import BundleError
from qsched_runtime.inspection import inspect_graph
from qsched_runtime.sessions import Graph
from qsched_runtime.unpacking import FAST_FROM, unpacked_fast

from qsched_edge.quantize.integers import pack

N = helper.make_node
CPU = ["CPUExecutionProvider"]


def conv(channels: int, block: int, bits: int, reader: str = "Reshape", scales: str = "float16") -> onnx.ModelProto:
    """Conv of a weight [6, channels, 3, 3] behind DequantizeLinear in blocks, as the exporter writes it."""
    rng, width = np.random.default_rng(channels * block), channels * 9
    blocks, dtype = -(-width // block), TensorProto.UINT4 if bits == 4 else TensorProto.UINT8

    def packed(name: str, count: int) -> TensorProto:
        values = rng.integers(0, 2**bits, (6, count)).astype(np.uint8).reshape(-1)
        return helper.make_tensor(name, dtype, [6, count], pack(values, bits).tobytes(), raw=True)

    scale = (0.01 * rng.random((6, blocks))).astype(scales)
    weights = [packed("q", width), packed("zero", blocks), numpy_helper.from_array(scale, "scale")]
    weights.append(numpy_helper.from_array(np.array([6, channels, 3, 3]), "shape"))
    nodes = [N("Cast", ["scale"], ["wide"], to=TensorProto.FLOAT)]
    nodes.append(N("DequantizeLinear", ["q", "wide", "zero"], ["d"], axis=1, block_size=block))
    nodes += [N("Reshape", ["d", "shape"], ["w"]), N("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    if reader != "Reshape":
        nodes += [N(reader, ["d"], ["z"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, "height", "width"])
    sizes: dict[str, list[str | int | None]] = {"y": ["batch", 6, "height", "width"], "z": [6, width]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    graph = helper.make_graph(nodes, "made", [x], outputs[: 1 + (reader != "Reshape")], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def operators(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("channels", "block"), [(16, 16), (32, 32), (48, 16)], ids=["odd", "odd too", "odd again"])
def test_the_same_floats_bit_for_bit(channels: int, block: int, bits: int, tmp_path: Path) -> None:
    path = saved(conv(channels, block, bits), tmp_path / "g.onnx")
    x = np.random.default_rng(1).standard_normal((2, channels, 5, 7)).astype(np.float32)
    expected = ort.InferenceSession(path, providers=CPU).run(None, {"x": x})[0]
    found = unpacked_fast(path.read_bytes())
    onnx.checker.check_model(onnx.load_from_string(found))
    assert operators(found) == ["Cast", "GatherBlockQuantized", "Reshape", "Conv"]
    assert np.array_equal(ort.InferenceSession(found, providers=CPU).run(None, {"x": x})[0], expected)
    inspect_graph(found, "g.onnx", {})  # nothing in it that a bundle may not hold


def test_even_blocks_stay_in_their_rows(tmp_path: Path) -> None:
    model = conv(64, 32, 4)
    found = onnx.load_from_string(unpacked_fast(model.SerializeToString()))
    shapes = {tensor.name: list(tensor.dims) for tensor in found.graph.initializer}
    assert (shapes["q"], shapes["zero"], shapes["scale"]) == ([6, 288], [6, 9], [6, 18])
    assert [t.raw_data for t in found.graph.initializer][:3] == [t.raw_data for t in model.graph.initializer][:3]


@pytest.mark.parametrize(
    "model",
    [conv(8, 128, 4), conv(16, 16, 4, reader="Identity"), conv(16, 8, 4)],
    ids=["a block that ends beyond its row", "another reader", "blocks that the operator does not have"],
)
def test_what_does_not_fit_stays(model: onnx.ModelProto) -> None:
    data = model.SerializeToString()
    assert unpacked_fast(data) is data


def test_weights_in_a_file_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "g.onnx"
    onnx.save(conv(64, 16, 4), path, save_as_external_data=True, location="g.data", size_threshold=100)
    x = np.ones((1, 64, 4, 4), np.float32)
    expected = ort.InferenceSession(path, providers=CPU).run(None, {"x": x})[0]
    monkeypatch.chdir("/")
    monkeypatch.setattr(sessions, "FAST_FROM", (0, 0))
    graph = Graph(path, CPU)
    assert np.array_equal(graph({"x": x})["y"], expected)


def test_older_versions_other_devices_and_fast_memory_read_the_file_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(conv(64, 16, 4), tmp_path / "g.onnx")
    options = ort.SessionOptions()
    assert isinstance(sessions.source_of(path, None, CPU, "low", options), bytes) == (
        sessions.version_of(ort.__version__) >= FAST_FROM
    )
    assert sessions.source_of(path, None, CPU, "fast", options) == path
    assert sessions.source_of(path, None, ["CUDAExecutionProvider"], "low", options) == path
    monkeypatch.setattr(sessions, "FAST_FROM", (99, 0))
    assert sessions.source_of(path, None, CPU, "low", options) == path


def test_what_is_no_graph_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(BundleError, match="cannot load"):
        Graph(path, CPU)
