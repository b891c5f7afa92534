"""Neural Compressor on whole graphs: the prepared one against the original, the exported bundle against 32 bits."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper as oh
from onnx import numpy_helper
from qsched_runtime import Sampler
from qsched_runtime.sessions import Graph

from qsched_edge.checkpoint.recipes import ModelSpec, read_recipe, resolve
from qsched_edge.errors import QuantizeError, RecipeError
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings, target_of
from qsched_edge.observe.settings import ObservedPrompts
from qsched_edge.observe.trajectory import record
from qsched_edge.prompts import read_prompts
from qsched_edge.quantize import whole_graph
from qsched_edge.quantize.feeds import read_feeds, recorded
from qsched_edge.work.memory import RamLimit

W8A8 = {"method": "smoothquant", "activation_bits": 8, "observed": ObservedPrompts(count=6)}


@pytest.fixture(scope="module")
def spec(recipe: Path) -> ModelSpec:
    return resolve(str(recipe))


def test_a_prepared_graph_computes_the_same_without_shared_or_transposed_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {"w": (6, 5), "v": (5, 5), "scale": (5,)}
    nodes = [
        oh.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        oh.make_node("MatMul", ["x", "w"], ["a"]),
        oh.make_node("Mul", ["a", "scale"], ["b"]),
        oh.make_node("MatMul", ["b", "wt"], ["c"]),
        oh.make_node("MatMul", ["c", "w"], ["d"]),
        oh.make_node("Gemm", ["d", "v", "scale"], ["y"], transB=1),
    ]
    values = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in tensors.items()]
    x, y = (oh.make_tensor_value_info(n, 1, [None, w]) for n, w in (("x", 6), ("y", 5)))
    onnx.save(oh.make_model(oh.make_graph(nodes, "g", [x], [y], values), opset_imports=[oh.make_opsetid("", 21)],
                            ir_version=10), tmp_path / "g.onnx")  # fmt: skip
    source = whole_graph.compressor_graph(tmp_path / "g.onnx", tmp_path / "p.onnx")
    given = {"x": rng.normal(size=(3, 6)).astype(np.float32)}
    before, after = (Graph(tmp_path / f"{n}.onnx", ["CPUExecutionProvider"])(given)["y"] for n in "gp")
    np.testing.assert_array_equal(after, before)
    initializers = [tensor.name for tensor in onnx.load(source.path).graph.initializer]
    uses = Counter(name for node in source.nodes for name in node.input if name in initializers)
    assert set(uses.values()) == {1}
    assert sorted(uses) == sorted(initializers)
    assert "Transpose" not in {node.op_type for node in source.nodes}
    assert len({node.name for node in source.nodes}) == len(source.nodes)
    assert source.operators(lambda weight: weight == "v") == ["v_MatMul"]


def test_smoothquant_exports_integers_with_fixed_scales(
    spec: ModelSpec, bundles: dict[int, Path], tmp_path: Path
) -> None:
    folder = export(spec, ExportSettings(8, **W8A8), tmp_path / "sq", quiet=True)
    report = json.loads((folder / "unet/quantization.json").read_text())
    assert report["precision"] == "W8A8"
    model = onnx.load(folder / "unet/model.onnx")
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["QuantizeLinear"]
    assert not operators["DynamicQuantizeLinear"]
    integers = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1}
    said = {name for name, precision in report["layers"].items() if precision == "W8A8"}
    assert {f"{name}_quantized" for name in said} <= integers
    assert report["layers"]["conv_out.weight"] == "FP32"  # the recipe keeps it
    floats = Counter(t.data_type == 1 and len(t.dims) > 1 and np.prod(t.dims) >= 1024 for t in model.graph.initializer)
    assert floats[True] == sum(precision == "FP32" for precision in report["layers"].values())
    prompts = read_prompts(spec.recipe.path(spec.recipe.heldout)).first(2)
    record(bundles[32], prompts, tmp_path, lambda n: None)
    graphs = [Graph(path / "unet/model.onnx", ["CPUExecutionProvider"]) for path in (folder, bundles[32])]
    pairs = [[graph(read_feeds(path))["out_sample"] for graph in graphs] for path in recorded(tmp_path, "unet")]
    wrong, energy = (
        sum(float((x**2).sum()) for x in some) for some in ([f - e for f, e in pairs], [e for _, e in pairs])
    )
    assert wrong < 0.2**2 * energy  # random weights: their first step is far from what fixes the scales
    assert Sampler.from_pretrained(folder)("a red apple").images.shape == (1, 16, 16, 3)
    assert {p.name for p in (folder / "unet").iterdir()} == {p.name for p in (bundles[32] / "unet").iterdir()}


def test_what_smoothquant_cannot_do_is_said(
    spec: ModelSpec, bundles: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bits, changes in ((4, {}), (8, {"activation_bits": 16}), (8, {"target": target_of(10**6, None)})):
        with pytest.raises(QuantizeError, match="smoothquant is W8A8 without a target size"):
            ExportSettings(bits, **{**W8A8, **changes})
    with pytest.raises(QuantizeError, match="leave --max-ram out"):
        ExportSettings(8, **W8A8, ram=RamLimit(2**31))
    with pytest.raises(QuantizeError, match="--calib-count must not be 0"):
        ExportSettings(8, **{**W8A8, "observed": ObservedPrompts(count=0)})
    refused = pytest.raises(QuantizeError, match=r"whole 32-bit graph, at most .* GB, and unet has .*: use rtn")
    with monkeypatch.context() as patch, refused:
        patch.setattr(whole_graph, "LARGEST_WHOLE", 1000)
        whole_graph.smoothquant(bundles[32] / "unet/model.onnx", [], lambda weight: False, tmp_path / "model.onnx")
    for name, error in (("conv_in.weight", QuantizeError), ("conv_on.weight", RecipeError)):
        mapped = replace(spec, recipe=replace(spec.recipe, layers={f"unet.{name}": 4}))
        with pytest.raises(error, match=name):
            export(mapped, ExportSettings(8, **W8A8), tmp_path / "x", quiet=True)


def test_a_recipe_may_ask_for_symmetric_weights(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "symmetric.toml"
    path.write_text("symmetric = true\n" + recipe.read_text())
    assert not read_recipe(recipe).scheme("unet", "conv_in.weight", 4, "rtn").symmetric
    scheme = read_recipe(path).scheme("unet", "conv_in.weight", 4, "rtn")
    assert scheme.symmetric
    assert replace(scheme, symmetric=False) == read_recipe(recipe).scheme("unet", "conv_in.weight", 4, "rtn")
