"""`inspect` against what the graphs were made of; both commands through the command line."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import cli
from graphs import model, normal, saved
from onnx import helper
from qsched_runtime import manifest as manifests

from qsched_edge.errors import WeightsError
from qsched_edge.foreign.inspection import inspect
from qsched_edge.foreign.run import quantize
from qsched_edge.foreign.settings import QuantizeSettings
from qsched_edge.precision import Scheme

N = helper.make_node
WEIGHTS = {"table": normal(2100, 64), "kernel": normal(48, 64, 3), "w": normal(48, 33), "b": normal(33)}
NODES = [
    N("Gather", ["table", "ids"], ["rows"]),
    N("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
    N("Conv", ["columns", "kernel"], ["features"], pads=[1, 1]),
    N("Transpose", ["features"], ["turned"], perm=[0, 2, 1]),
    N("MatMul", ["turned", "w"], ["z"]),
    N("Add", ["z", "b"], ["y"]),
]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return saved(model(NODES, {"ids": ("int64", [1, 5])}, WEIGHTS), tmp_path / "float.onnx")


def test_a_float_graph_is_listed_as_it_is(graph: Path) -> None:
    (found,) = inspect(graph).graphs
    weights = {w.name: (w.kind, w.shape, w.precision, w.bits, w.bytes) for w in found.weights}
    assert weights["table"] == ("embedding", (2100, 64), "FP32", 32, 2100 * 64 * 4)
    assert weights["kernel"] == ("conv", (48, 64, 3), "FP32", 32, 48 * 64 * 3 * 4)
    assert weights["w"] == ("linear", (48, 33), "FP32", 32, 48 * 33 * 4)
    assert weights["(small tensors)"][4] == 33 * 4
    assert sum(w.bytes for w in found.weights) == sum(a.nbytes for a in WEIGHTS.values())
    assert found.file_bytes == graph.stat().st_size


@pytest.mark.parametrize("name", ["W4A16", "W8A8", "W2A16", "FP16"])
def test_a_quantized_graph_has_the_kinds_shapes_and_bytes_that_were_written(name: str, graph: Path) -> None:
    output = graph.with_name("out.onnx")
    report = quantize(graph, output, QuantizeSettings(Scheme.parse(name)), quiet=True)
    (found,) = inspect(output).graphs
    seen = {w.name: (w.shape, w.bytes) for w in found.weights if w.name in WEIGHTS}
    assert seen == {layer.name: (layer.shape, layer.bytes) for layer in report.layers}
    kinds = {w.name: w.kind for w in found.weights if w.name in WEIGHTS}
    assert kinds == {"table": "embedding", "kernel": "conv", "w": "linear"} | ({"b": "other"} if "b" in kinds else {})
    precisions = {w.name: w.precision for w in found.weights if w.name in WEIGHTS}
    if name != "W2A16":  # the containers of tables and convolutions are wider: the graph alone cannot tell
        assert precisions == {layer.name: layer.precision for layer in report.layers}
    else:
        assert precisions == {"table": "W4A16", "kernel": "W4A16", "w": "W2A16"}


def test_graphs_that_others_quantized_are_understood(tmp_path: Path) -> None:
    """A QDQ convolution by channel, with 8-bit activations, and MatMulInteger."""
    rng = np.random.default_rng(0)
    weights = {
        "k_quantized": rng.integers(-9, 9, (32, 16, 3), dtype=np.int8), "ks": np.full(32, 0.1, np.float32),
        "kz": np.zeros(32, np.int8), "s": np.float32(0.1).reshape(()), "zp": np.uint8(3).reshape(()),
        "m_quantized": rng.integers(-9, 9, (30, 40), dtype=np.int8),
    }  # fmt: skip
    nodes = [
        N("QuantizeLinear", ["x", "s", "zp"], ["xq"]), N("DequantizeLinear", ["xq", "s", "zp"], ["xd"]),
        N("DequantizeLinear", ["k_quantized", "ks", "kz"], ["kd"], axis=0), N("Conv", ["xd", "kd"], ["c"]),
        N("DynamicQuantizeLinear", ["c"], ["u", "us", "uz"]), N("MatMulInteger", ["u", "m_quantized", "uz"], ["i"]),
        N("Cast", ["i"], ["y"], to=1),
    ]  # fmt: skip
    path = saved(model(nodes, {"x": ("float32", [1, 16, 32])}, weights), tmp_path / "qdq.onnx")
    found = {w.name: (w.kind, w.precision, w.bytes) for w in inspect(path).graphs[0].weights}
    assert found["k"] == ("conv", "W8A8", 32 * 16 * 3 + 32 * 4 + 32)
    assert found["m"] == ("linear", "W8A8", 30 * 40)


def test_bits_that_are_not_given_are_four(graph: Path) -> None:
    output = graph.with_name("out.onnx")
    quantize(graph, output, QuantizeSettings(Scheme(4)), quiet=True)
    proto = onnx.load(output)
    for node in proto.graph.node:
        for attribute in [a for a in node.attribute if a.name == "bits"]:
            node.attribute.remove(attribute)
    found = {
        w.name: (w.precision, w.bits) for w in inspect(saved(proto, graph.with_name("bare.onnx"))).graphs[0].weights
    }
    assert found["w"] == found["table"] == ("W4A16", 4)


def test_a_bundle_is_summed_over_its_components(bundles: dict[int, Path]) -> None:
    found = inspect(bundles[4]).json()
    assert [g["name"] for g in found["graphs"]] == list(manifests.read(bundles[4]).components)
    files = manifests.read(bundles[4]).files
    assert found["file_bytes"] == sum(f.bytes for f in files if "/model.onnx" in f.path)
    unet = next(g for g in found["graphs"] if g["name"] == "unet")
    noted = json.loads((bundles[4] / "unet/quantization.json").read_text())["layers"]
    listed = {w["name"]: w["precision"] for w in unet["weights"]}
    assert {name: listed.get(name) for name in noted} == noted
    weights = json.loads((bundles[32] / "unet/quantization.json").read_text())["layers"]
    assert set(weights) == set(noted)
    assert sum(e["bytes"] for e in unet["shares"]["precision"].values()) == sum(w["bytes"] for w in unet["weights"])
    for w in unet["weights"]:
        assert w["bytes"] * 8 >= prod(w["shape"]) * (4 if w["precision"].startswith("W4") else 0)


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\xff\xff")
    with pytest.raises(WeightsError, match="cannot be read as ONNX"):
        inspect(tmp_path / "a.onnx")
    with pytest.raises(WeightsError, match="does not exist"):
        inspect(tmp_path / "b.onnx")


def test_both_commands_print_tables_and_json(graph: Path) -> None:
    output = graph.with_name("out.onnx")
    done = cli("quantize", graph, "-o", output, "--bits", 8, "--group-size", 32, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["bytes"] == [graph.stat().st_size, output.stat().st_size]
    assert {layer["precision"] for layer in report["layers"]} == {"W8A16"}
    assert report["difference"]["sqnr_db"] > 35
    text = cli("inspect", output).stdout
    assert "W8A16  embedding" in text
    assert f"{output.stat().st_size:,} bytes" in text
    again = cli("quantize", graph, "-o", output)
    assert (again.returncode, again.stdout) == (1, "")
    assert "--force" in again.stderr
    wrong = cli("quantize", graph, "-o", output, "--bits", 5, "--force")
    assert "weight_bits 5" in wrong.stderr
    assert onnx.load(output).graph.node[0].op_type
