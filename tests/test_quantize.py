"""Packing, schemes and the rewritten graphs against numpy's own arithmetic and INC's whole-graph result."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from qsched_edge.errors import QuantizeError
from qsched_edge.precision import Scheme
from qsched_edge.quantize.integers import pack, unpack
from qsched_edge.quantize.methods import quantizer_of
from qsched_edge.quantize.neural_compressor import quant_tensor, round_to_nearest


@given(st.integers(1, 9), st.integers(1, 40), st.sampled_from([2, 4, 8]), st.integers(0, 2**32 - 1))
def test_unpack_inverts_pack(rows: int, n: int, bits: int, seed: int) -> None:
    q = np.random.default_rng(seed).integers(0, 2**bits, size=(rows, n), dtype=np.uint8)
    assert (unpack(pack(q, bits), bits, n) == q).all()


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 150)), elements=st.floats(-4, 4, width=32)),
    st.sampled_from([2, 3, 4, 8]),
    st.booleans(),
)
def test_rounding_error_is_at_most_half_a_step(weight: np.ndarray, bits: int, symmetric: bool) -> None:
    matrix = round_to_nearest(weight, Scheme(bits, 64, symmetric))
    columns = np.arange(weight.shape[1]) // matrix.group_size
    scale = matrix.scale.astype(np.float64)[:, columns]
    error = np.abs(matrix.dequantize().astype(np.float64) - weight)
    # half a step, the float16 rounding of the scale, one step where a symmetric range cuts its positive end,
    # and float16's smallest numbers
    half = 1.0 if symmetric else 0.5
    assert (error <= half * scale * 1.01 + np.abs(weight) * 2e-3 + 1e-4).all()


def test_groups_of_one_sign_are_not_cut() -> None:
    weight = np.linspace(1.0, 2.0, 64, dtype=np.float32)[None]
    assert np.abs(round_to_nearest(weight, Scheme(4, 64)).dequantize() - weight).max() < 0.08


def test_tensor_level_result_equals_inc_on_a_whole_graph(tmp_path: Path) -> None:
    """rtn_quantize on a MatMul model: the same integers, scales and zero points."""
    quant_tensor()
    from neural_compressor.adaptor.ox_utils.weight_only import rtn_quantize

    weight = np.random.default_rng(0).normal(size=(128, 48)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 48])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    config = {"matmul": {"bits": 4, "group_size": 32, "scheme": "asym", "algorithm": "RTN"}}
    theirs = rtn_quantize(str(tmp_path / "m.onnx"), weight_config=config, num_bits=4, group_size=32, scheme="asym")
    stored = {i.name: numpy_helper.to_array(i) for i in theirs.model.graph.initializer}
    ours = round_to_nearest(weight.T, Scheme(4, 32))
    blobs = pack(ours.q.reshape(48, 4, 32), 4)
    (node,) = theirs.model.graph.node
    assert node.op_type == "MatMulNBits"
    assert (stored[node.input[1]].reshape(blobs.shape) == blobs).all()
    np.testing.assert_allclose(stored[node.input[2]].reshape(48, 4), ours.scale, rtol=1e-3)
    assert (stored[node.input[3]].reshape(48, 2) == pack(ours.zero, 4)).all()


@pytest.mark.parametrize("width", [160, 320, 64, 96, 1000])
def test_group_size_never_wastes_more_than_it_saves(width: int) -> None:
    scheme = Scheme(4, 64)
    cost = {g: -(-width // g) * (g / 2 + 2.5) for g in (16, 32, 64)}
    assert cost[scheme.group_for(width)] == min(cost.values())


def test_bad_schemes_are_refused_with_the_value() -> None:
    with pytest.raises(QuantizeError, match="weight_bits 5"):
        Scheme(5)
    with pytest.raises(QuantizeError, match="group_size 48"):
        Scheme(4, 48)
    with pytest.raises(QuantizeError, match="unknown quantization method 'rtm': did you mean 'rtn'"):
        quantizer_of("rtm")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("memory", ["low", "fast"])
def test_quantized_graph_computes_with_the_dequantized_weights(tmp_path: Path, bits: int, memory: str) -> None:
    """A conv and a linear layer in onnxruntime against torch with the weights that the integers stand for."""
    import torch
    from qsched_runtime.sessions import Graph
    from safetensors.torch import save_file

    from qsched_edge.capture.graph import Port, capture
    from qsched_edge.checkpoint.weights import Weights
    from qsched_edge.quantize.rewrite import write_graph

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(5, 7, 3, padding=1)
            self.linear = torch.nn.Linear(7, 6)

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network.linear(self.network.conv(x).permute(0, 2, 3, 1))

    torch.manual_seed(0)
    module = Wrapped()
    save_file(module.network.state_dict(), tmp_path / "model.safetensors")
    captured = capture(Wrapped, [Port("x", (1, 5, 6, 6))], ["y"])
    scheme = Scheme(bits, 16)
    weights = Weights([tmp_path / "model.safetensors"])
    layers = write_graph(captured, weights, lambda name, kind: scheme, tmp_path)
    assert {layer.name: layer.precision for layer in layers}["conv.weight"] == f"W{bits}A16"
    with torch.no_grad():
        for parameter in (module.network.conv.weight, module.network.linear.weight):
            restored = round_to_nearest(parameter.reshape(len(parameter), -1).numpy(), scheme).dequantize()
            parameter.copy_(torch.from_numpy(restored).reshape(parameter.shape))
        x = torch.randn(1, 5, 6, 6)
        expected = module(x).numpy()
    (found,) = Graph(tmp_path / "model.onnx", ["CPUExecutionProvider"], memory)({"x": x.numpy()}).values()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    used = {node.op_type for node in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node}
    assert {"MatMulNBits", "DequantizeLinear", "Conv"} <= used


def test_captured_tables_and_8_bit_activations(tmp_path: Path) -> None:
    """A large table becomes GatherBlockQuantized, a small one stays a float; names say what each weight has."""
    import torch
    from qsched_runtime.sessions import Graph
    from safetensors.torch import save_file

    from qsched_edge.capture.graph import Port, capture
    from qsched_edge.checkpoint.weights import Weights
    from qsched_edge.quantize.rewrite import write_graph

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.positions = torch.nn.Embedding(4100, 32), torch.nn.Embedding(40, 32)
            self.project = torch.nn.Linear(32, 48)

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Encoder()

        def forward(self, ids: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            return self.network.project(self.network.words(ids) + self.network.positions(at))

    torch.manual_seed(0)
    module, scheme = Wrapped(), Scheme(4, 32, activation_bits=8)
    save_file(module.network.state_dict(), tmp_path / "model.safetensors")
    captured = capture(Wrapped, [Port("ids", (1, 5), "int64"), Port("at", (1, 5), "int64")], ["y"])
    weights = Weights([tmp_path / "model.safetensors"])
    layers = {la.name: la for la in write_graph(captured, weights, lambda name, kind: scheme, tmp_path)}
    assert {n: (la.kind, la.precision) for n, la in layers.items()} == {
        "words.weight": ("embedding", "W4A16"),
        "positions.weight": ("other", "FP16"),
        "project.weight": ("linear", "W4A8"),
        "project.bias": ("other", "FP32"),
    }
    assert layers["words.weight"].bytes == 4100 * (16 + 2 * 2 + 1), "two blocks of 16: an odd number is misread"
    with torch.no_grad():
        for weight, exact in ((module.network.words.weight, Scheme(4, 16)), (module.network.project.weight, scheme)):
            weight.copy_(torch.from_numpy(round_to_nearest(weight.numpy(), exact).dequantize()))
        ids, at = torch.tensor([[0, 4099, 7, 7, 1]]), torch.tensor([[0, 1, 2, 3, 39]])
        expected = module(ids, at).numpy()
    feeds = {"ids": ids.numpy(), "at": at.numpy()}
    (found,) = Graph(tmp_path / "model.onnx", ["CPUExecutionProvider"])(feeds).values()
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-5 < error < 0.02
