"""`quantize` on graphs of other exporters: each against the same graph with the weights that the integers stand for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import cli
from graphs import model, normal, operators, restored, run, saved, with_weights
from onnx import TensorProto, helper, numpy_helper

from qsched_edge.errors import OutputExistsError, QuantizeError, WeightsError
from qsched_edge.foreign.graph_weights import GraphWeights
from qsched_edge.foreign.reading import read_graph
from qsched_edge.foreign.run import QuantizeReport, quantize
from qsched_edge.foreign.settings import QuantizeSettings
from qsched_edge.precision import Scheme
from qsched_edge.quantize.encode import WeightRows
from qsched_edge.quantize.layers.linear import Linear
from qsched_edge.quantize.methods import WeightMethod
from qsched_edge.quantize.neural_compressor import round_to_nearest
from qsched_edge.quantize.store import Packed
from qsched_edge.work.memory import RamLimit

W4 = Scheme(4, 32)
N = helper.make_node


def convert(proto: onnx.ModelProto, folder: Path, scheme: Scheme = W4) -> tuple[Path, QuantizeReport]:
    folder.mkdir(exist_ok=True)
    output = folder / "out.onnx"
    report = quantize(saved(proto, folder / "in.onnx"), output, QuantizeSettings(scheme), quiet=True)
    return output, report


def linear(node: onnx.NodeProto | list[onnx.NodeProto], weight: np.ndarray, **more: np.ndarray) -> onnx.ModelProto:
    nodes = node if isinstance(node, list) else [node]
    return model(nodes, {"x": ("float32", ["batch", 48])}, {"w": weight, **more})


KN, NK = normal(48, 40), normal(40, 48)
GEMM = {"alpha": 0.5, "beta": 2.0}
# name -> (model, axis order that makes the weight [N, K], x's shape, operators that must be there, and must not)
LINEAR = {
    "matmul": (linear(N("MatMul", ["x", "w"], ["y"]), KN), True, (5, 48)),
    "gemm": (linear(N("Gemm", ["x", "w", "b"], ["y"], **GEMM), KN, b=normal(40)), True, (5, 48)),
    "gemm transB": (linear(N("Gemm", ["x", "w"], ["y"], transB=1), NK), False, (5, 48)),
    "gemm transA": (linear(N("Gemm", ["x", "w", "b"], ["y"], transA=1, **GEMM), KN, b=normal(40)), True, (48, 1)),
    "transposed": (
        linear([N("Transpose", ["w"], ["t"], perm=[1, 0]), N("MatMul", ["x", "t"], ["y"])], NK), False, (5, 48),
    ),
    "shared": (
        linear(
            [N("MatMul", ["x", "w"], ["a"]), N("Relu", ["x"], ["r"]), N("Identity", ["w"], ["v"]),
             N("MatMul", ["r", "v"], ["b"]), N("Add", ["a", "b"], ["y"])], KN,
        ), True, (5, 48),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LINEAR)
def test_linear_layers_of_every_orientation(case: str, tmp_path: Path) -> None:
    proto, columns, shape = LINEAR[case]
    if case == "gemm transA":
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 48
        proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    output, report = convert(proto, tmp_path)
    weight = next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "w")
    exact = restored(weight.T, W4).T if columns else restored(weight, W4)
    x = normal(*shape, seed=7)
    np.testing.assert_allclose(run(output, {"x": x}), run(with_weights(proto, {"w": exact}), {"x": x}), atol=1e-5)
    assert operators(output).count("MatMulNBits") == (2 if case == "shared" else 1)
    assert not {"MatMul", "Gemm"} & set(operators(output))
    assert [layer.name for layer in report.layers] == ["w"]
    assert onnx.load(output).opset_import[0].version == 17, "linear layers need no newer opset"


CONVOLUTIONS = {
    "conv1d": (N("Conv", ["x", "w", "b"], ["y"], dilations=[2]), (24, 16, 3), (1, 16, 12)),
    "conv2d in groups": (N("Conv", ["x", "w"], ["y"], group=4, strides=[2, 2]), (24, 8, 3, 3), (1, 32, 9, 9)),
    "depthwise": (N("Conv", ["x", "w"], ["y"], group=120), (120, 1, 3, 3), (1, 120, 5, 5)),
    "conv3d": (N("Conv", ["x", "w"], ["y"], pads=[1] * 6), (8, 6, 3, 3, 3), (1, 6, 4, 4, 4)),
    "transposed": (N("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2], group=2), (16, 12, 3, 3), (1, 16, 4, 4)),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("scheme", [W4, Scheme(8, 0)], ids=["W4", "W8 per channel"])
def test_convolutions_of_every_kind_from_opset_13(case: str, scheme: Scheme, tmp_path: Path) -> None:
    node, shape, x_shape = CONVOLUTIONS[case]
    bias = shape[1] * 2 if case == "transposed" else shape[0]
    weights = {"w": normal(*shape), **({"b": normal(bias)} if len(node.input) > 2 else {})}
    proto = model([node], {"x": ("float32", x_shape)}, weights, opset=13)
    output, report = convert(proto, tmp_path, scheme)
    x = normal(*x_shape, seed=3)
    exact = with_weights(proto, {"w": restored(weights["w"], scheme)})
    np.testing.assert_allclose(run(output, {"x": x}), run(exact, {"x": x}), atol=1e-5)
    assert report.opset == ((13, 21) if scheme is W4 else (13, 13))
    assert [(layer.kind, layer.precision) for layer in report.layers] == [("conv", scheme.name)]


@pytest.mark.parametrize("width", [64, 80, 33])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_tables_give_the_rows_that_the_integers_stand_for(bits: int, width: int, tmp_path: Path) -> None:
    """Also with rows of an odd number of blocks or values, which GatherBlockQuantized reads in 8 bits only."""
    rows = 2**17 // width + 1
    table, ids = normal(rows, width), np.array([[0, 5, rows - 1], [7, -1, 2]])
    proto = model([N("Gather", ["w", "x"], ["y"])], {"x": ("int64", ["n", 3])}, {"w": table})
    output, report = convert(proto, tmp_path, Scheme(bits, 32))
    (node,) = (n for n in onnx.load(output).graph.node if n.op_type == "GatherBlockQuantized")
    fields = {a.name: a.i for a in node.attribute}
    blocks = -(-width // fields["block_size"])
    assert fields["bits"] == 8 or (fields["bits"] == 4 and blocks % 2 == 0 and width % 2 == 0)
    exact = restored(table, Scheme(bits, fields["block_size"]))
    np.testing.assert_allclose(run(output, {"x": ids}), exact[ids], atol=1e-6)
    assert report.layers[0].precision == f"W{bits}A16"
    assert report.layers[0].bytes >= table.size * bits // 8


def test_a_table_that_is_also_the_output_projection_becomes_both(tmp_path: Path) -> None:
    table = normal(2100, 64)
    nodes = [N("Gather", ["w", "x"], ["e"]), N("Transpose", ["w"], ["t"]), N("MatMul", ["e", "t"], ["y"])]
    proto = model(nodes, {"x": ("int64", [3])}, {"w": table})
    output, report = convert(proto, tmp_path)
    assert sorted(layer.kind for layer in report.layers) == ["embedding", "linear"]
    exact, ids = restored(table, W4), np.array([1, 2099, 30])
    np.testing.assert_allclose(run(output, {"x": ids}), exact[ids] @ exact.T, atol=1e-5)


def test_float16_graphs_stay_float16(tmp_path: Path) -> None:
    weights = {"w": normal(16, 16, 3, 3, dtype="float16"), "v": normal(36, 40, dtype="float16")}
    shape = {"s": np.array([1, 16, 36])}
    nodes = [
        N("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        N("Reshape", ["c", "s"], ["r"]),
        N("MatMul", ["r", "v"], ["y"]),
    ]
    proto = model(nodes, {"x": ("float16", [1, 16, 6, 6])}, {**weights, **shape}, dtype="float16")
    output, report = convert(proto, tmp_path)
    x = normal(1, 16, 6, 6, seed=2, dtype="float16")
    exact = with_weights(proto, {"w": restored(weights["w"], W4), "v": restored(weights["v"].T, W4).T})
    found, expected = run(output, {"x": x}), run(exact, {"x": x})
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), atol=2e-3)
    assert {layer.precision for layer in report.layers} == {"W4A16"}
    assert "Cast" not in operators(output)


def test_what_cannot_be_quantized_is_named_with_the_reason(tmp_path: Path) -> None:
    """An If body, a batch of matrices, a left operand, a bias, QDQ integers and small weights stay as they are."""
    branch = helper.make_graph(
        [N("MatMul", ["x", "inside"], ["i"]), N("Mul", ["i", "outer"], ["z"])], "then", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(normal(48, 48), "inside")],
    )  # fmt: skip
    other = helper.make_graph(
        [N("Identity", ["x"], ["z2"])], "else", [], [helper.make_tensor_value_info("z2", TensorProto.FLOAT, None)]
    )
    integers = np.random.default_rng(0).integers(-9, 9, (48, 48)).astype(np.int8)
    nodes = [
        N("If", ["flag"], ["f"], then_branch=branch, else_branch=other),
        N("MatMul", ["left", "f"], ["a"]),
        N("MatMul", ["a", "batched"], ["b"]),
        N("DequantizeLinear", ["q", "scale"], ["d"]),
        N("MatMul", ["b", "d"], ["e"]),
        N("MatMul", ["e", "good"], ["g"]),
        N("MatMul", ["g", "small"], ["y"]),
    ]
    weights = {
        "outer": normal(48, 48), "left": normal(48, 48), "batched": normal(1, 48, 48), "q": integers,
        "scale": np.float32(0.01).reshape(()), "good": normal(48, 48), "small": normal(48, 4), "flag": np.array(True),
    }  # fmt: skip
    proto = model(nodes, {"x": ("float32", [48, 48])}, weights)
    output, report = convert(proto, tmp_path)
    assert [layer.name for layer in report.layers] == ["good"]
    reasons = {left.name: left.reason for left in report.left}
    assert "subgraph" in reasons["inside"]
    assert "subgraph" in reasons["outer"]
    assert "left operand" in reasons["left"]
    assert "batch of matrices" in reasons["batched"]
    assert reasons["q"] == "already quantized"
    assert "fewer than 1,024" in reasons["small"]
    assert "already quantized: q" in report.text()
    x = normal(48, 48, seed=4)
    exact = with_weights(proto, {"good": restored(weights["good"].T, W4).T})
    np.testing.assert_allclose(run(output, {"x": x}), run(exact, {"x": x}), atol=1e-4)


def test_names_that_are_taken_are_not_taken_again(tmp_path: Path) -> None:
    nodes = [N("MatMul", ["x", "w"], ["w_zero"]), N("Mul", ["w_zero", "w_scale"], ["w_q"]), N("Relu", ["w_q"], ["y"])]
    proto = model(nodes, {"x": ("float32", ["n", 48])}, {"w": KN, "w_scale": np.array([2.0], np.float32)})
    output, _ = convert(proto, tmp_path)
    x = normal(3, 48, seed=1)
    expected = np.maximum(2 * (x @ restored(KN.T, W4).T), 0)
    np.testing.assert_allclose(run(output, {"x": x}), expected, atol=1e-5)


def test_a_weight_read_both_ways_round_is_stored_for_each_beside_its_namesake(tmp_path: Path) -> None:
    """x W + x W^T + x V, V called what the second copy of W would be; a Transpose that changes nothing is no layer."""
    square, other = normal(48, 48), normal(48, 48, seed=5)
    nodes = [
        N("MatMul", ["x", "w"], ["a"]), N("Transpose", ["w"], ["t"], perm=[1, 0]), N("MatMul", ["x", "t"], ["b"]),
        N("MatMul", ["x", "w_linear"], ["c"]), N("Transpose", ["same"], ["s"], perm=[0, 1]),
        N("MatMul", ["x", "s"], ["d"]), N("Sum", ["a", "b", "c", "d"], ["y"]),
    ]  # fmt: skip
    weights = {"w": square, "w_linear": other, "same": np.eye(48, dtype=np.float32)}
    output, report = convert(model(nodes, {"x": ("float32", ["n", 48])}, weights), tmp_path)
    assert [layer.name for layer in report.layers] == ["w", "w_linear_", "w_linear"]
    assert [left.name for left in report.left] == ["same"]
    x = normal(3, 48, seed=1)
    expected = x @ restored(square.T, W4).T + x @ restored(square, W4).T + x @ restored(other.T, W4).T + x
    np.testing.assert_allclose(run(output, {"x": x}), expected, atol=1e-5)


def test_constant_nodes_are_weights_and_metadata_stays(tmp_path: Path) -> None:
    weight = normal(48, 40)
    nodes = [N("Constant", [], ["w"], value=numpy_helper.from_array(weight)), N("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, {"x": ("float32", ["n", 48])}, {}, opset=13)
    conv = N("Conv", ["u", "k"], ["v"])
    proto.graph.node.insert(0, conv)
    proto.graph.input.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, [1, 16, 5, 5]))
    proto.graph.output.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, None))
    proto.graph.initializer.append(numpy_helper.from_array(normal(16, 16, 3, 3), "k"))
    helper.set_model_props(proto, {"alphabet": "abc"})
    output, report = convert(proto, tmp_path)
    assert {layer.kind for layer in report.layers} == {"linear", "conv"}
    written = onnx.load(output)
    assert {p.key: p.value for p in written.metadata_props} == {"alphabet": "abc"}
    assert written.opset_import[0].version == 21
    feeds = {"x": normal(3, 48, seed=1), "u": normal(1, 16, 5, 5)}
    np.testing.assert_allclose(run(output, feeds), feeds["x"] @ restored(weight.T, W4).T, atol=1e-5)


def test_where_the_opset_cannot_be_converted_linear_layers_still_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuses)
    nodes = [N("Conv", ["x", "k"], ["c"]), N("MatMul", ["c", "w"], ["y"])]
    weights = {"k": normal(32, 16, 3), "w": normal(48, 40)}
    _, report = convert(model(nodes, {"x": ("float32", [1, 16, 50])}, weights, opset=13), tmp_path)
    assert [layer.name for layer in report.layers] == ["w"]
    assert [left.reason for left in report.left] == [
        "a convolution, and opset 13 cannot be converted to 21: no adapter"
    ]


def external(folder: Path) -> Path:
    proto = model([N("MatMul", ["x", "w"], ["y"])], {"x": ("float32", ["n", 48])}, {"w": KN})
    onnx.save(proto, folder / "in.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    return folder / "in.onnx"


def test_external_data_is_read_from_the_graphs_own_folder_only(tmp_path: Path) -> None:
    graph = external(tmp_path)
    quantize(graph, tmp_path / "out.onnx", QuantizeSettings(W4), quiet=True)
    x = normal(3, 48, seed=1)
    np.testing.assert_allclose(run(tmp_path / "out.onnx", {"x": x}), x @ restored(KN.T, W4).T, atol=1e-5)
    (tmp_path / "inner").mkdir()
    moved = tmp_path / "inner/in.onnx"
    moved.write_bytes(graph.read_bytes().replace(b"weights.bin", b"../eights.b"))
    with pytest.raises(WeightsError, match="refused"):
        quantize(moved, tmp_path / "inner/out.onnx", QuantizeSettings(W4), quiet=True)
    moved.write_bytes(graph.read_bytes())
    (tmp_path / "inner/weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(WeightsError, match="symbolic link: refused, copy the folder"):
        quantize(moved, tmp_path / "inner/out.onnx", QuantizeSettings(W4), quiet=True)
    (tmp_path / "inner/weights.bin").unlink()
    (tmp_path / "inner/weights.bin").write_bytes(b"short")
    with pytest.raises(WeightsError, match="cut short"):
        quantize(moved, tmp_path / "inner/out.onnx", QuantizeSettings(W4), quiet=True)


def test_large_outputs_have_a_data_file_and_force_replaces_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, output = external(tmp_path), tmp_path / "out.onnx"
    monkeypatch.setattr("qsched_edge.foreign.run.ONE_FILE", 10)
    quantize(graph, output, QuantizeSettings(W4), quiet=True)
    x = normal(3, 48, seed=1)
    expected = run(output, {"x": x})
    assert (tmp_path / "out.onnx_data").stat().st_size > 900
    with pytest.raises(OutputExistsError):
        quantize(graph, output, QuantizeSettings(W4), quiet=True)
    monkeypatch.undo()
    quantize(graph, output, QuantizeSettings(W4), force=True, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.onnx", "out.onnx", "weights.bin"]
    assert (run(output, {"x": x}) == expected).all()


def test_the_inputs_own_files_are_never_written(tmp_path: Path) -> None:
    graph = external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "o.onnx_data")
    graph.write_bytes(graph.read_bytes().replace(b"weights.bin", b"o.onnx_data"))
    before = (tmp_path / "o.onnx_data").read_bytes()
    for name in ("in.onnx", "o.onnx"):
        with pytest.raises(QuantizeError, match="belongs to the input"):
            quantize(graph, tmp_path / name, QuantizeSettings(W4), force=True, quiet=True)
    assert (tmp_path / "o.onnx_data").read_bytes() == before
    (tmp_path / "other.onnx_data").write_text("mine")
    with pytest.raises(OutputExistsError, match="_data exists"):
        quantize(graph, tmp_path / "other.onnx", QuantizeSettings(W4), quiet=True)


def test_an_interrupted_run_leaves_no_output_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, output = external(tmp_path), tmp_path / "out.onnx"

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qsched_edge.foreign.run.compare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quantize(graph, output, QuantizeSettings(W4), quiet=True)
    assert not output.exists()
    quantize(graph, output, QuantizeSettings(W4), quiet=True)
    assert output.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_run_interrupted_before_other_weights_came_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same graph file and as many bytes, but other values in the data file."""
    weights = {"w": normal(48, 48), "v": normal(48, 48, seed=1)}
    proto = model(
        [N("MatMul", ["x", "w"], ["h"]), N("MatMul", ["h", "v"], ["y"])], {"x": ("float32", [3, 48])}, weights
    )
    graph, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(with_weights(proto, {}), graph, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before, real, made = graph.read_bytes(), Linear.encode, []

    def stops_at_the_second(kind: Linear, rows: WeightRows, scheme: Scheme) -> list[Packed]:
        made.append(rows.name)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(kind, rows, scheme)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Linear, "encode", stops_at_the_second)
        quantize(graph, output, QuantizeSettings(W4), quiet=True)
    others = {name: array + np.float32(0.05) for name, array in weights.items()}
    (tmp_path / "weights.bin").unlink()
    onnx.save(with_weights(proto, others), graph, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert graph.read_bytes() == before
    quantize(graph, output, QuantizeSettings(W4), quiet=True)
    exact = with_weights(proto, {name: restored(array.T, W4).T for name, array in others.items()})
    x = normal(3, 48, seed=2)
    np.testing.assert_allclose(run(output, {"x": x}), run(exact, {"x": x}), atol=1e-5)


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_sixteen_bits_halve_every_large_float(operator: str, tmp_path: Path) -> None:
    proto = model([N(operator, ["x", "w"], ["y"])], {"x": ("float32", ["n", 48])}, {"w": KN})
    output, report = convert(proto, tmp_path, Scheme(16))
    x = normal(3, 48, seed=1)
    np.testing.assert_allclose(run(output, {"x": x}), x @ KN.astype(np.float16).astype(np.float32), atol=1e-5)
    assert report.layers[0].precision == "FP16"
    assert report.layers[0].bytes == 2 * KN.size


def test_error_is_measured_on_given_inputs(tmp_path: Path) -> None:
    proto = model([N("MatMul", ["x", "w"], ["y"])], {"x": ("float32", ["n", 48])}, {"w": KN})
    graph, x = saved(proto, tmp_path / "in.onnx"), normal(6, 48, seed=9)
    np.savez(tmp_path / "inputs.npz", x=x)
    report = quantize(graph, tmp_path / "out.onnx", QuantizeSettings(W4, tmp_path / "inputs.npz"), quiet=True)
    expected, found = x.astype(np.float64) @ KN, x.astype(np.float64) @ restored(KN.T, W4).T
    relative = np.linalg.norm(expected - found) / np.linalg.norm(expected)
    assert report.difference.relative == pytest.approx(relative, rel=1e-3)
    assert report.difference.sqnr == pytest.approx(-20 * np.log10(relative), rel=1e-3)
    assert report.difference.max_abs == pytest.approx(np.abs(expected - found).max(), rel=1e-3)
    np.savez(tmp_path / "wrong.npz", z=x)
    with pytest.raises(QuantizeError, match="lacks x"):
        quantize(graph, tmp_path / "o2.onnx", QuantizeSettings(W4, tmp_path / "wrong.npz"), quiet=True)


def test_graphs_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(WeightsError, match="cannot be read as ONNX"):
        quantize(tmp_path / "noise.onnx", tmp_path / "out.onnx", QuantizeSettings(), quiet=True)
    nothing = model([N("Relu", ["x"], ["y"])], {"x": ("float32", [3])}, {})
    with pytest.raises(QuantizeError, match="nothing in"):
        convert(nothing, tmp_path)
    old = model([N("MatMul", ["x", "w"], ["y"])], {"x": ("float32", ["n", 48])}, {"w": KN}, opset=10)
    with pytest.raises(QuantizeError, match="opset 10: convert it to 11"):
        convert(old, tmp_path)


def test_an_error_of_exactly_zero_is_not_taken_for_quality(tmp_path: Path) -> None:
    nodes = [N("MatMul", ["x", "w"], ["p"]), N("Mul", ["p", "nothing"], ["y"])]
    _, report = convert(linear(nodes, KN, nothing=np.zeros(1, np.float32)), tmp_path)
    assert "not one output differs" in report.text()
    assert json.loads(json.dumps(report.json(), allow_nan=False))["difference"]["sqnr_db"] is None


def with_output(proto: onnx.ModelProto, name: str, kind: int) -> onnx.ModelProto:
    proto.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return proto


def test_outputs_whose_size_depends_on_the_data_are_compared_one_by_one(tmp_path: Path) -> None:
    """NonZero finds other places in 2 bits: such outputs count as different, the others are measured all the same."""
    nodes = [
        N("MatMul", ["x", "w"], ["y"]), N("Greater", ["y", "z"], ["b"]), N("NonZero", ["b"], ["places"]),
        N("Transpose", ["places"], ["t"]), N("GatherND", ["y", "t"], ["chosen"]),
    ]  # fmt: skip
    proto = with_output(linear(nodes, KN, z=np.float32(0.05).reshape(())), "places", TensorProto.INT64)
    proto = with_output(proto, "chosen", TensorProto.FLOAT)
    x = normal(8, 48, seed=9)
    np.savez(tmp_path / "inputs.npz", x=x)
    scheme = Scheme(2, 32)
    graph = saved(proto, tmp_path / "in.onnx")
    report = quantize(graph, tmp_path / "out.onnx", QuantizeSettings(scheme, tmp_path / "inputs.npz"), quiet=True)
    y, other = x.astype(np.float64) @ KN, x.astype(np.float64) @ restored(KN.T, scheme).T
    sizes = [int((values > 0.05).sum()) for values in (y, other)]
    assert sizes[0] != sizes[1]
    difference = report.difference
    assert difference.outputs == y.size
    assert difference.relative == pytest.approx(np.linalg.norm(y - other) / np.linalg.norm(y), rel=1e-3)
    assert difference.equal == 0
    assert f"places has shape (2, {sizes[1]}) instead of (2, {sizes[0]}): it counts as different" in report.text()
    assert len(report.json()["difference"]["reshaped"]) == 2


def test_a_graph_with_integer_outputs_only_says_how_many_are_equal(tmp_path: Path) -> None:
    nodes = [N("MatMul", ["x", "w"], ["p"]), N("ArgMax", ["p"], ["y"], axis=1)]
    proto = linear(nodes, KN)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    x = normal(64, 48, seed=9)
    np.savez(tmp_path / "inputs.npz", x=x)
    graph = saved(proto, tmp_path / "in.onnx")
    report = quantize(graph, tmp_path / "out.onnx", QuantizeSettings(Scheme(2), tmp_path / "inputs.npz"), quiet=True)
    equal = np.mean((x @ KN).argmax(axis=1) == (x @ restored(KN.T, Scheme(2)).T).argmax(axis=1))
    assert 0 < equal < 1
    assert report.difference.equal == pytest.approx(equal)
    assert "not one output differs" not in report.text()
    assert "no float output can be compared" in report.text()
    assert json.loads(json.dumps(report.json(), allow_nan=False))["difference"]["relative"] is None


def test_outputs_that_are_not_finite_are_no_proof_of_equality(tmp_path: Path) -> None:
    graph = saved(linear(N("MatMul", ["x", "w"], ["y"]), KN), tmp_path / "in.onnx")
    np.savez(tmp_path / "nan.npz", x=np.full((2, 48), np.nan, np.float32))
    report = quantize(graph, tmp_path / "out.onnx", QuantizeSettings(W4, tmp_path / "nan.npz"), quiet=True)
    assert "not one output differs" not in report.text()
    assert "80 values of the original's outputs are not finite" in report.text()


def test_an_infinite_relative_error_is_null_in_json(tmp_path: Path) -> None:
    nodes = [N("MatMul", ["x", "w"], ["a"]), N("Einsum", ["x", "v"], ["b"], equation="ij,jk->ik"),
             N("Sub", ["a", "b"], ["d"]), N("Mul", ["d", "big"], ["e"]), N("Round", ["e"], ["y"])]  # fmt: skip
    weights = {"v": KN, "big": np.full(1, 50, np.float32)}
    graph = saved(linear(nodes, KN, **weights), tmp_path / "in.onnx")
    done = cli("quantize", graph, "-o", tmp_path / "out.onnx", "--bits", 2, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout, parse_constant=lambda text: pytest.fail(text))["difference"]
    assert found["relative"] is None
    assert found["max_abs"] > 0


def many_layers(folder: Path) -> Path:
    """24 linear layers of 1 MiB, both ways round, in external data."""
    weights = {f"w{i}": normal(512, 512, seed=i) for i in range(24)}
    nodes = [N("Gemm", [f"x{i}" if i else "x", f"w{i}"], [f"x{i + 1}"], transB=i % 2) for i in range(24)]
    proto = model([*nodes, N("Identity", ["x24"], ["y"])], {"x": ("float32", ["n", 512])}, weights)
    onnx.save(proto, folder / "in.onnx", save_as_external_data=True, location="weights.bin")
    return folder / "in.onnx"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux says what is mapped")
def test_external_data_does_not_stay_in_memory(tmp_path: Path) -> None:
    graph = read_graph(many_layers(tmp_path))
    weights = GraphWeights()
    for i in range(24):
        weights.add(f"w{i}", graph.graph.initializers[f"w{i}"].const_value, transposed=not i % 2)
    for i in range(24):
        exact = normal(512, 512, seed=i) if i % 2 else normal(512, 512, seed=i).T
        for part in (slice(0, 512), slice(100, 233)):
            assert (weights.rows(f"w{i}", part.start, part.stop) == exact[part]).all()
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert mapped == []


def test_a_memory_limit_without_room_to_run_leaves_the_error_unmeasured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, limit = many_layers(tmp_path), 4 * 2**30
    monkeypatch.setattr("qsched_edge.work.memory.peak_bytes", lambda: limit - 2**26)
    found = quantize(graph, tmp_path / "a.onnx", QuantizeSettings(W4, ram=RamLimit(limit)), quiet=True)
    assert found.difference is not None
    monkeypatch.setattr("qsched_edge.foreign.run.RUNNING", 4)
    found = quantize(graph, tmp_path / "b.onnx", QuantizeSettings(W4, ram=RamLimit(limit)), quiet=True)
    assert found.difference is None
    assert "not measured: --max-ram leaves no room" in found.text()
    assert found.json()["difference"] is None
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_what_a_method_imports_counts_before_the_room_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(WeightMethod, "quantizer", lambda self: events.append(self.name) or round_to_nearest)
    monkeypatch.setattr(RamLimit, "chunk", lambda self: events.append("room") or 2**20)
    quantize(external(tmp_path), tmp_path / "out.onnx", QuantizeSettings(W4), quiet=True)
    assert events[:2] == ["rtn", "room"]


FAR = {"the most negative number": np.finfo(np.float32).min, "minus infinity": -np.inf}


@pytest.mark.parametrize("case", FAR)
@pytest.mark.parametrize("bits", [4, 16])
def test_a_causal_mask_stays_and_the_weights_go(case: str, bits: int, tmp_path: Path) -> None:
    mask = np.triu(np.full((48, 48), FAR[case], np.float32), 1)
    nodes = [N("MatMul", ["x", "w"], ["p"]), N("Add", ["p", "mask"], ["s"]), N("Softmax", ["s"], ["y"])]
    proto = model(nodes, {"x": ("float32", [48, 48])}, {"w": normal(48, 48), "mask": mask})
    output, report = convert(proto, tmp_path, Scheme(bits))
    assert [layer.name for layer in report.layers] == ["w"]
    if bits == 16:
        wanted = "holds values that are not finite" if np.isinf(FAR[case]) else "beyond float16's range"
        assert [(left.name, left.reason) for left in report.left] == [("mask", wanted)]
    exact = restored(normal(48, 48).T, Scheme(4)).T if bits == 4 else normal(48, 48).astype(np.float16)
    x = normal(48, 48, seed=1)
    np.testing.assert_allclose(run(output, {"x": x}), run(with_weights(proto, {"w": exact}), {"x": x}), atol=1e-6)


@pytest.mark.parametrize("outside", [False, True], ids=["inside", "external"])
def test_a_weight_that_the_scheme_cannot_hold_stays(outside: bool, tmp_path: Path) -> None:
    broken, huge, tiny = normal(48, 48), normal(48, 48), normal(48, 48) * np.float32(1e-8)
    broken[7, 5], huge[3, 3] = np.nan, 1e7
    weights = {"broken": broken, "huge": huge, "tiny": tiny, "good": normal(48, 48)}
    nodes = [N("MatMul", ["x", name], [f"{name}_out"]) for name in weights]
    proto = model([*nodes, N("Identity", ["good_out"], ["y"])], {"x": ("float32", ["n", 48])}, weights)
    for name in ("tiny_out", "huge_out"):
        with_output(proto, name, TensorProto.FLOAT)
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0} if outside else {}
    onnx.save(proto, tmp_path / "in.onnx", **options)
    report = quantize(tmp_path / "in.onnx", tmp_path / "out.onnx", QuantizeSettings(Scheme(8, 64)), quiet=True)
    assert [layer.name for layer in report.layers] == ["huge", "good"]
    reasons = {left.name: left.reason for left in report.left}
    assert reasons == {"broken": "holds values that are not finite", "tiny": "too small for float16 scales"}
    huge[3, 3] = 1e9
    proto = model([N("MatMul", ["x", "huge"], ["h"]), N("MatMul", ["h", "good"], ["y"])],
                  {"x": ("float32", ["n", 48])}, {"huge": huge, "good": weights["good"]})  # fmt: skip
    _, report = convert(proto, tmp_path / "again", Scheme(8, 64))
    assert [(left.name, left.reason) for left in report.left] == [("huge", "too large for float16 scales")]


def test_a_weight_that_would_grow_stays(tmp_path: Path) -> None:
    """One input for each output: a block of 16 values for each value."""
    weights = {"thin": normal(1, 2048), "thick": normal(2048, 48)}
    nodes = [N("MatMul", ["x", "thin"], ["h"]), N("MatMul", ["h", "thick"], ["y"])]
    _, report = convert(model(nodes, {"x": ("float32", ["n", 1])}, weights), tmp_path, Scheme(4))
    assert [layer.name for layer in report.layers] == ["thick"]
    assert [(left.name, left.reason) for left in report.left] == [("thin", "would take more bytes")]


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_float16_convolutions_by_channel_are_lifted_to_opset_19(opset: int, tmp_path: Path) -> None:
    weight = normal(32, 16, 3, 3, dtype="float16")
    proto = model([N("Conv", ["x", "w"], ["y"])], {"x": ("float16", [1, 16, 6, 6])}, {"w": weight}, opset, "float16")
    scheme = Scheme(8, 0)
    output, report = convert(proto, tmp_path, scheme)
    assert report.opset == (opset, 19)
    x = normal(1, 16, 6, 6, seed=3, dtype="float16")
    exact = with_weights(proto, {"w": restored(weight.astype(np.float32), scheme)})
    np.testing.assert_allclose(
        run(output, {"x": x}).astype(np.float32), run(exact, {"x": x}).astype(np.float32), atol=2e-3
    )


def broken_inputs(folder: Path) -> dict[str, Path]:
    x = normal(5, 48, seed=9)
    np.save(folder / "array.npy", x)
    np.savez_compressed(folder / "whole.npz", x=x)
    data = (folder / "whole.npz").read_bytes()
    (folder / "cut.npz").write_bytes(data[: len(data) // 2])
    (folder / "damaged.npz").write_bytes(data[:200] + bytes(b ^ 255 for b in data[200:210]) + data[210:])
    (folder / "empty.npz").write_bytes(b"")
    (folder / "noise.npz").write_bytes(b"noise")
    return {name: folder / name for name in ("array.npy", "cut.npz", "damaged.npz", "empty.npz", "noise.npz")}


def test_inputs_that_cannot_be_read_are_one_line_before_anything_is_quantized(tmp_path: Path) -> None:
    graph = saved(linear(N("MatMul", ["x", "w"], ["y"]), KN), tmp_path / "in.onnx")
    (tmp_path / "given").mkdir()
    for path in broken_inputs(tmp_path / "given").values():
        with pytest.raises(QuantizeError, match=r"cannot be read as .npz"):
            quantize(graph, tmp_path / "out.onnx", QuantizeSettings(W4, path), quiet=True)
    with pytest.raises(QuantizeError, match="--seed -1"):
        QuantizeSettings(W4, seed=-1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given", "in.onnx"]


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    graph = saved(linear(N("MatMul", ["x", "w"], ["y"]), KN), tmp_path / "in.onnx")
    np.savez(tmp_path / "thin.npz", x=normal(5, 47))
    with pytest.raises(QuantizeError, match="does not run on"):
        quantize(graph, tmp_path / "out.onnx", QuantizeSettings(W4, tmp_path / "thin.npz"), quiet=True)
    with pytest.raises(QuantizeError, match="nothing in"):
        convert(model([N("Relu", ["x"], ["y"])], {"x": ("float32", [3])}, {}), tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputExistsError, match="is a folder"):
        quantize(graph, tmp_path / "folder", QuantizeSettings(W4), force=True, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "in.onnx", "thin.npz"]


@pytest.mark.parametrize("nodes_too", [False, True])
def test_the_default_domain_may_be_called_by_its_name(nodes_too: bool, tmp_path: Path) -> None:
    nodes = [N("Conv", ["x", "w"], ["y"], domain="ai.onnx" if nodes_too else "")]
    proto = model(nodes, {"x": ("float32", [1, 16, 9])}, {"w": normal(32, 16, 3)})
    proto.opset_import[0].domain = "ai.onnx"
    output, report = convert(proto, tmp_path)
    assert report.opset == (17, 21)
    exact, x = with_weights(proto, {"w": restored(normal(32, 16, 3), W4)}), normal(1, 16, 9, seed=1)
    np.testing.assert_allclose(run(output, {"x": x}), run(exact, {"x": x}), atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_what_16_bits_wrote_goes_to_4(kind: str, tmp_path: Path) -> None:
    """The same integers as those of the float16 values, through the Cast; what stays keeps its Cast."""
    weight = normal(48, 48, seed=3) if kind == "linear" else normal(48, 48, 3)
    node = N("MatMul", ["x", "w"], ["p"]) if kind == "linear" else N("Conv", ["x", "w"], ["p"])
    shape = [48, 48] if kind == "linear" else [1, 48, 50]
    proto = model([node, N("Add", ["p", "c"], ["y"])], {"x": ("float32", shape)}, {"w": weight, "c": normal(48, 48)})
    first, _ = convert(proto, tmp_path, Scheme(16))
    report = quantize(first, tmp_path / "w4.onnx", QuantizeSettings(W4), quiet=True)
    assert [(layer.name, layer.kind, layer.precision) for layer in report.layers] == [("w", kind, "W4A16")]
    assert {left.name: left.dtype for left in report.left} == {"c": "FLOAT16"}
    halves = weight.astype(np.float16).astype(np.float32)
    exact = restored(halves.T, W4).T if kind == "linear" else restored(halves, W4)
    values = {"w": exact, "c": normal(48, 48).astype(np.float16)}
    x = normal(*shape, seed=1)
    expected = run(with_weights(proto, values), {"x": x})
    np.testing.assert_allclose(run(tmp_path / "w4.onnx", {"x": x}), expected, atol=1e-5)
    again = quantize(first, tmp_path / "w16.onnx", QuantizeSettings(W4), quiet=True)
    assert again.bytes[0] == first.stat().st_size


def test_weights_that_are_outputs_say_so(tmp_path: Path) -> None:
    def reasons(proto: onnx.ModelProto, bits: int) -> list[str]:
        _, report = convert(proto, tmp_path / f"{len(proto.graph.node)}{bits}", Scheme(bits, 32))
        return [left.reason for left in report.left if left.name == "w"]

    nodes = [N("MatMul", ["x", "w"], ["p"]), N("MatMul", ["x", "v"], ["q"]), N("Add", ["p", "q"], ["y"])]
    shown = with_output(linear(nodes, normal(48, 48), v=normal(48, 48)), "w", TensorProto.FLOAT)
    assert reasons(shown, 4) == reasons(shown, 16) == ["an output of the graph"]
    nodes = [N("Transpose", ["w"], ["t"]), N("MatMul", ["x", "t"], ["p"]), *nodes[1:]]
    turned = with_output(linear(nodes, normal(48, 48), v=normal(48, 48)), "t", TensorProto.FLOAT)
    assert reasons(turned, 4) == ["an output of the graph"]


def test_sparse_initializers_are_refused_by_name(tmp_path: Path) -> None:
    proto = linear([N("MatMul", ["x", "w"], ["p"]), N("MatMul", ["x", "s"], ["q"]), N("Add", ["p", "q"], ["y"])], KN)
    values, places = numpy_helper.from_array(normal(9), "s"), np.arange(9) * 7
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places, "places"), [48, 40])
    proto.graph.sparse_initializer.append(sparse)
    with pytest.raises(QuantizeError, match="sparse initializers, which are not read: s"):
        convert(proto, tmp_path)


def test_a_convolution_of_opset_11_is_lifted(tmp_path: Path) -> None:
    weight = normal(32, 16, 3, 3)
    graph = model([N("Conv", ["x", "w"], ["y"])], {"x": ("float32", ["n", 16, 8, 8])}, {"w": weight}, opset=11)
    _, report = convert(graph, tmp_path)
    assert report.opset == (11, 21)
    assert 0 < report.difference.relative < 0.2
