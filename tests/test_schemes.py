"""Every scheme in onnxruntime against its own definition in float64; what activations of 8 bits do; what is packed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graphs import model, normal, operators, restored, run, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from qsched_edge.errors import QuantizeError
from qsched_edge.foreign.run import QuantizeReport, quantize
from qsched_edge.foreign.settings import QuantizeSettings
from qsched_edge.precision import GROUP_SIZES, Scheme
from qsched_edge.quantize.encode import WeightRows
from qsched_edge.quantize.integers import pack, unpack
from qsched_edge.quantize.layers.conv import CONV, Conv
from qsched_edge.quantize.layers.embedding import EMBEDDING, Embedding
from qsched_edge.quantize.layers.linear import LINEAR, Linear
from qsched_edge.quantize.layers.registry import LAYER_KINDS, layer_kind
from qsched_edge.quantize.resident import Resident, resident

N = helper.make_node
IntegerKind = Linear | Conv | Embedding
INTEGER_KINDS: list[IntegerKind] = [LINEAR, CONV, EMBEDDING]
SCHEMES = st.builds(
    Scheme, st.sampled_from([2, 3, 4, 8]), st.sampled_from([0, *GROUP_SIZES]), st.booleans(), st.just("rtn"),
    st.sampled_from([8, 16]),
)  # fmt: skip


@given(SCHEMES | st.builds(Scheme, st.sampled_from([16, 32])))
def test_parse_inverts_name(scheme: Scheme) -> None:
    assert Scheme.parse(scheme.name, scheme.group_size, scheme.symmetric) == scheme
    assert Scheme.parse(scheme.name.lower()).name == scheme.name


@pytest.mark.parametrize("name", ["W4", "A8", "int4", "FP8", "W5A16", "W4A4"])
def test_names_that_are_no_scheme_are_refused(name: str) -> None:
    with pytest.raises(QuantizeError):
        Scheme.parse(name)


@given(st.sampled_from([2, 3, 4, 8]), st.sampled_from(INTEGER_KINDS), st.data())
def test_every_width_fits_its_container(bits: int, kind: IntegerKind, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 700))
    layout = kind.layout(Scheme(bits, data.draw(st.sampled_from([0, *GROUP_SIZES]))), width)
    assert layout.bits >= bits
    q = np.random.default_rng(0).integers(0, 2**bits, size=(3, width), dtype=np.uint8)
    packed = pack(q, layout.bits)
    assert packed.shape == (3, -(-width * layout.bits // 8))
    assert (unpack(packed, layout.bits, width) == q).all()
    assert layout.block in (0, *GROUP_SIZES)
    assert layout.blocks(width) * (layout.block or width) >= width


def test_every_operator_has_one_kind_of_layer() -> None:
    kinds = [layer_kind(name) for name in LAYER_KINDS]
    assert [kind.name for kind in kinds] == list(LAYER_KINDS)
    for readers in ([kind.operators for kind in kinds], [kind.integer_operators for kind in kinds]):
        names = [name for some in readers for name in some]
        assert len(names) == len(set(names))


def network(width: int = 96) -> tuple[object, dict[str, np.ndarray]]:
    """Table -> Conv -> MatMul, with 2 x 3 ids as input."""
    weights = {
        "table": normal(2**17 // width + 1, width, seed=1),
        "kernel": normal(40, width, 3, seed=2),
        "w": normal(40, 33, seed=3),
    }
    nodes = [
        N("Gather", ["table", "ids"], ["rows"]),
        N("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
        N("Conv", ["columns", "kernel"], ["features"], pads=[1, 1]),
        N("Transpose", ["features"], ["turned"], perm=[0, 2, 1]),
        N("MatMul", ["turned", "w"], ["y"]),
    ]
    return model(nodes, {"ids": ("int64", [2, 3])}, weights, opset=21), weights


def by_definition(weights: dict[str, np.ndarray], scheme: Scheme, ids: np.ndarray) -> np.ndarray:
    """The network in float64 with w = (q - zero) scale."""
    layout = EMBEDDING.layout(scheme, weights["table"].shape[1])
    x = restored(weights["table"], layout.scheme)[ids]
    kernel = restored(weights["kernel"], scheme)
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    features = sum(padded[:, k : k + 3] @ kernel[:, :, k].T for k in range(3))
    return features @ restored(weights["w"].T, scheme).T


def converted(proto: object, folder: Path, scheme: Scheme) -> tuple[Path, QuantizeReport]:
    output = folder / "out.onnx"
    return output, quantize(saved(proto, folder / "in.onnx"), output, QuantizeSettings(scheme), quiet=True)


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("group_size", [16, 64, 256, 0])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_scheme_computes_what_it_defines(bits: int, group_size: int, symmetric: bool, tmp_path: Path) -> None:
    scheme, ids = Scheme(bits, group_size, symmetric), np.array([[0, 5, 1300], [7, 7, 2]])
    proto, weights = network()
    output, report = converted(proto, tmp_path, scheme)
    np.testing.assert_allclose(run(output, {"ids": ids}), by_definition(weights, scheme, ids), atol=1e-5)
    assert {layer.precision for layer in report.layers} == {scheme.name}
    containers = {"table": {8: 8}.get(bits, 4), "kernel": {8: 8}.get(bits, 4), "w": {3: 4}.get(bits, bits)}
    for layer in report.layers:
        assert layer.bytes >= weights[layer.name].size * containers[layer.name] // 8, "a container counts whole"


def dynamically_rounded(x: np.ndarray) -> np.ndarray:
    """The ONNX definition of DynamicQuantizeLinear and back."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return ((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)


def test_convolutions_round_their_inputs_to_8_bits(tmp_path: Path) -> None:
    proto = model([N("Conv", ["x", "k"], ["y"])], {"x": ("float32", [1, 64, 20])}, {"k": normal(32, 64, 1)}, opset=21)
    output, report = converted(proto, tmp_path, Scheme(4, 64, activation_bits=8))
    x = normal(1, 64, 20, seed=6)
    exact = restored(normal(32, 64, 1), Scheme(4, 64))[:, :, 0]
    found = run(output, {"x": x})[0]
    np.testing.assert_allclose(found, exact @ dynamically_rounded(x)[0], atol=1e-5)
    assert np.abs(found - exact @ x[0]).max() > 1e-4, "the inputs were not rounded"
    assert report.layers[0].precision == "W4A8"


@pytest.mark.parametrize("bits", [4, 8])
def test_linear_layers_round_their_inputs_to_8_bits(bits: int, tmp_path: Path) -> None:
    """The kernel's own rounding in blocks: near the exact product, but not on it."""
    w, x = normal(128, 64), normal(7, 128, seed=8)
    proto = model([N("MatMul", ["x", "w"], ["y"])], {"x": ("float32", ["n", 128])}, {"w": w})
    output, report = converted(proto, tmp_path, Scheme(bits, 32, activation_bits=8))
    exact = x @ restored(w.T, Scheme(bits, 32)).T
    error = np.linalg.norm(run(output, {"x": x}) - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 2e-2
    assert report.layers[0].precision == f"W{bits}A8"


LARGE = {
    "linear": (N("MatMul", ["x", "w"], ["y"]), (2048, 2048), ("float32", [1, 2048])),
    "conv": (N("Conv", ["x", "w"], ["y"]), (512, 910, 3, 3), ("float32", [1, 910, 3, 3])),
    "conv per channel": (N("Conv", ["x", "w"], ["y"]), (512, 910, 3, 3), ("float32", [1, 910, 3, 3])),
    "embedding": (N("Gather", ["w", "x"], ["y"]), (16384, 256), ("int64", [3])),
}


@pytest.mark.parametrize("case", LARGE)
def test_onnxruntime_keeps_4_bit_weights_packed(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.2 million weights would be 16 MB of float32."""
    monkeypatch.setattr("qsched_edge.foreign.run.ONE_FILE", 0)
    node, shape, x = LARGE[case]
    proto = model([node], {"x": x}, {"w": normal(*shape)}, opset=21)
    output, _ = converted(proto, tmp_path, Scheme(4, 0 if "channel" in case else 64))
    found = resident(output)
    assert found.growth < 1.6 * found.file + 2**21, found
    assert found.peak >= found.growth
    assert found.file == sum(f.stat().st_size for f in tmp_path.glob("out.onnx*"))
    print(case, found)


RUN_ONCE = """
import sys
from pathlib import Path
import numpy as np
from qsched_runtime.sessions import Graph
from qsched_edge.work.memory import current_bytes
before = current_bytes()
graph = Graph(Path(sys.argv[1]), ["CPUExecutionProvider"], memory=sys.argv[2], threads=1)
graph({"x": np.ones((1, 910, 3, 3), np.float32)})
print(current_bytes() - before)
"""


def test_a_run_gives_back_the_convolutions_it_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its operator runs, such a weight is float32; how much onnxruntime itself takes differs by machine."""
    monkeypatch.setattr("qsched_edge.foreign.run.ONE_FILE", 0)
    node, shape, x = LARGE["conv"]
    output, _ = converted(model([node], {"x": x}, {"w": normal(*shape)}, opset=21), tmp_path, Scheme(4, 64))
    grown = {m: int(subprocess.check_output([sys.executable, "-c", RUN_ONCE, output, m])) for m in ("low", "fast")}
    unpacked = 4 * int(np.prod(shape))
    assert grown["fast"] - grown["low"] > 0.7 * unpacked


def test_floats_are_widened_at_load_and_said(tmp_path: Path) -> None:
    proto = model([N("MatMul", ["x", "w"], ["y"])], {"x": ("float32", [1, 3072])}, {"w": normal(3072, 3072)}, opset=21)
    output, _ = converted(proto, tmp_path, Scheme(16))
    found = resident(output)
    assert found.ratio > 1.6
    assert found.float16 == 2 * 3072 * 3072
    assert found.line.endswith("at most while it loads")
    assert "18 MiB of it float16, widened at load" in found.line
    assert "Cast" in operators(output)


def test_integers_that_are_unpacked_at_load_are_said_loudly() -> None:
    packed = Resident(file=100 * 2**20, float16=10 * 2**20, growth=180 * 2**20, peak=200 * 2**20)
    assert packed.packed
    assert not packed.line.startswith("WARNING")
    unpacked = replace(packed, growth=740 * 2**20)  # 90 MiB of 4 bits as float32, and the floats
    assert unpacked.line.startswith("WARNING: weights do not stay packed: in memory 740 MiB, 7.40 times the file")


@settings(deadline=None)
@given(SCHEMES, st.sampled_from(INTEGER_KINDS), st.integers(1, 5), st.integers(1, 300))
def test_bytes_are_known_before_a_weight_is_encoded(scheme: Scheme, kind: IntegerKind, rows: int, width: int) -> None:
    shape = (rows, width, 1) if kind is CONV else (rows, width)

    class Zeros:
        def shape(self, name: str) -> tuple[int, ...]:
            return shape

        def rows(self, name: str, start: int, stop: int) -> np.ndarray:
            return np.zeros((stop - start, *shape[1:]), np.float32)

    stored = kind.encode(WeightRows(Zeros(), "w", shape), scheme)
    assert kind.stored_bytes(shape, scheme) == sum(packed.data.nbytes for packed in stored)


@pytest.mark.parametrize("name", ["rtn", "mse"])
def test_scales_beyond_float16_are_refused(name: str) -> None:
    class Huge:
        def shape(self, name: str) -> tuple[int, ...]:
            return 4, 64

        def rows(self, name: str, start: int, stop: int) -> np.ndarray:
            return np.full((stop - start, 64), 1e9, np.float32)

    with pytest.raises(QuantizeError, match="w is too large for float16 scales"):
        LINEAR.encode(WeightRows(Huge(), "w", (4, 64)), Scheme(8, 64, method=name))
