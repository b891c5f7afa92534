"""Moments against torch's own activations, sensitivities against exported graphs, widths against brute force."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qsched_runtime import manifest as manifests
from qsched_runtime.sessions import Graph

import qsched_edge.export.run as stage
from qsched_edge.checkpoint.recipes import ModelSpec, read_layers, resolve
from qsched_edge.checkpoint.weights import Weights, weight_files
from qsched_edge.errors import QuantizeError, RecipeError
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings, target_of
from qsched_edge.observe import accumulate, sensitivity
from qsched_edge.observe.accumulate import MomentsFolder, block_widths, observe, rounds
from qsched_edge.observe.allocation import Option, Target, allocate
from qsched_edge.observe.sensitivity import load_backbone, sensitivities, width_choices
from qsched_edge.observe.settings import ObservedPrompts
from qsched_edge.observe.taps import ROWS, Tap, columns_of
from qsched_edge.observe.trajectory import record
from qsched_edge.precision import Scheme
from qsched_edge.prompts import read_prompts
from qsched_edge.quantize.feeds import read_feeds, recorded, spread
from qsched_edge.quantize.layers.kind import Window
from qsched_edge.quantize.rewrite import write_graph
from qsched_edge.work.journal import Journal
from qsched_edge.work.memory import RamLimit

FEW = ObservedPrompts(count=6)


@pytest.fixture(scope="module")
def spec(recipe: Path) -> ModelSpec:
    return resolve(str(recipe))


@pytest.fixture(scope="module")
def feeds(bundles: dict[int, Path], spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feeds of eight prompts on the 32-bit miniature."""
    folder = tmp_path_factory.mktemp("feeds")
    prompts = read_prompts(spec.recipe.path(spec.recipe.prompts)).first(8)
    record(bundles[32], prompts, folder, lambda n: None)
    return folder


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_columns_are_those_of_unfold(groups: int, stride: int, dilation: int) -> None:
    import torch

    x = torch.randn(3, 4, 7, 9)
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1), (dilation, dilation), groups)
    found = columns_of(x.numpy(), window, np.random.default_rng(0))
    per_group = x.reshape(3 * groups, 4 // groups, 7, 9)
    unfolded = torch.nn.functional.unfold(per_group, 3, dilation, padding=1, stride=stride)
    np.testing.assert_array_equal(found, unfolded.transpose(1, 2).reshape(len(found), -1).numpy())


def test_many_positions_are_sampled() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    window = Window((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1)
    rows = columns_of(x, window, np.random.default_rng(0))
    assert rows.shape == (ROWS, 3)
    every = {tuple(r) for r in x.transpose(0, 2, 3, 1).reshape(-1, 3)}
    assert len({tuple(r) for r in rows} & every) == ROWS


@pytest.mark.parametrize("room", [2**31, 2**15])
def test_moments_are_those_of_torch_activations(tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strided convolution and two linear layers on one input; a small room forces several rounds."""
    import torch
    from safetensors.torch import save_file

    from qsched_edge.capture.graph import Port, capture

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(5, 64, 3, stride=2, padding=1)
            self.left, self.right = torch.nn.Linear(64, 6, bias=False), torch.nn.Linear(64, 6)

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.network.conv(x).permute(0, 2, 3, 1)
            return self.network.left(y) * self.network.right(y)

    torch.manual_seed(0)
    module = Wrapped()
    save_file(module.network.state_dict(), tmp_path / "model.safetensors")
    captured = capture(Wrapped, [Port("x", (1, 5, 8, 8))], ["y"])
    write_graph(captured, Weights([tmp_path / "model.safetensors"]), lambda name, kind: Scheme(32), tmp_path)
    inputs = torch.randn(3, 1, 5, 8, 8)
    paths = [tmp_path / f"{i}.npz" for i in range(3)]
    for path, x in zip(paths, inputs, strict=True):
        np.savez(path, x=x.numpy())
    monkeypatch.setattr(accumulate, "MOMENTS_ROOM", room)
    observe(tmp_path / "model.onnx", paths, tmp_path / "moments", RamLimit())
    moments = MomentsFolder.of(tmp_path / "model.onnx", tmp_path / "moments")
    with torch.no_grad():
        columns = torch.nn.functional.unfold(inputs[:, 0], 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 45)
        hidden = module.network.conv(inputs[:, 0]).permute(0, 2, 3, 1).reshape(-1, 64)
    for name, rows in (("conv.weight", columns), ("left.weight", hidden), ("right.weight", hidden)):
        found = moments(name)
        assert found is not None
        (block,) = found.blocks
        np.testing.assert_allclose(block, (rows.T @ rows / len(rows)).numpy(), rtol=1e-3, atol=1e-5)
    assert len(list((tmp_path / "moments").iterdir())) == 2  # the two linear layers share theirs
    assert moments("conv.bias") is None


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20), st.integers(2**22, 2**26))
def test_rounds_keep_to_the_room_and_lose_nothing(widths: list[int], room: int) -> None:
    taps = [Tap((str(i),), (), width, None) for i, width in enumerate(widths)]
    grouped = rounds(taps, room)
    assert [tap for some in grouped for tap in some] == taps
    for some in grouped:
        assert sum(4 * w * w for tap in some for w in block_widths(tap.width, room)) <= room
        assert all(sum(block_widths(tap.width, room)) == tap.width for tap in some)
        assert all(w % 256 == 0 for tap in some for w in block_widths(tap.width, room)[:-1])


def test_a_room_that_is_too_small_is_refused() -> None:
    with pytest.raises(QuantizeError, match="raise --max-ram"):
        block_widths(3000, 2**20)


OPTIONS = st.lists(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1)), min_size=1, max_size=3), min_size=1, max_size=5
)


@settings(max_examples=60, deadline=None)
@given(OPTIONS, st.integers(1, 300))
def test_widths_are_the_best_of_all_combinations(sizes: list[list[tuple[int, float]]], budget: int) -> None:
    options = {str(i): [Option(b, size, e) for b, (size, e) in enumerate(some)] for i, some in enumerate(sizes)}
    fitting = [c for c in itertools.product(*options.values()) if sum(o.bytes for o in c) + 7 <= budget]
    if not fitting:
        with pytest.raises(QuantizeError, match="cannot be reached"):
            allocate(options, 7, Target(budget), 1000)
        return
    chosen = allocate(options, 7, Target(budget), 1000)
    picked = [next(o for o in options[name] if o.bits == bits) for name, bits in chosen.items()]
    assert len(picked) == len(options)
    assert sum(o.bytes for o in picked) + 7 <= budget
    assert sum(o.error for o in picked) == pytest.approx(min(sum(o.error for o in c) for c in fitting), abs=1e-5)


@pytest.mark.parametrize("budget", [1_000_009, 1_000_010, 1_000_019])
def test_the_budget_holds_to_the_byte(budget: int) -> None:
    """HiGHS takes one millionth more for equal."""
    options = {"a": [Option(4, 500_000, 1.0), Option(8, 1_000_000, 0.0)], "b": [Option(4, 10, 1.0), Option(8, 20, 0.5)]}
    chosen = allocate(options, 0, Target(budget), 2_000_000)
    assert sum(next(o.bytes for o in options[n] if o.bits == bits) for n, bits in chosen.items()) <= budget
    assert chosen["a"] == (4 if budget == 1_000_009 else 8)


def test_no_choice_and_no_number_are_no_crash() -> None:
    assert allocate({}, 10, Target(100), 10) == {}
    with pytest.raises(QuantizeError, match="not finite with w in 4 bits"):
        allocate({"w": [Option(4, 5, float("nan"))]}, 0, Target(10), 20)


def test_targets_are_one_number() -> None:
    assert target_of(None, None) is None
    assert Target(ratio=4.0).budget(1000) == 250
    with pytest.raises(QuantizeError, match="exclude each other"):
        target_of(1, 2.0)
    with pytest.raises(QuantizeError, match="above zero"):
        target_of(None, -1.0)
    for size, ratio in ((0, None), (-5, None), (None, 0.0), (None, float("inf")), (None, float("nan"))):
        with pytest.raises(QuantizeError, match="above zero"):
            target_of(size, ratio)


def test_every_component_is_recorded_over_all_step_counts(feeds: Path) -> None:
    assert [len(recorded(feeds, name)) for name in ("text_encoder", "unet", "vae_decoder")] == [2, 4 + 2, 2]
    assert len(spread(recorded(feeds, "unet"), 4)) == 4
    timesteps = {float(read_feeds(path)["timestep"][0]) for path in recorded(feeds, "unet")}
    assert len(timesteps) >= 4


def test_sensitivity_is_the_error_of_a_graph_with_that_one_weight_quantized(
    spec: ModelSpec, bundles: dict[int, Path], feeds: Path, tmp_path: Path
) -> None:
    graph, paths = bundles[32] / "unet/model.onnx", recorded(feeds, "unet")
    candidates, _, _ = width_choices(
        ir.load(graph).graph, lambda name, bits: spec.recipe.scheme("unet", name, bits, "rtn")
    )
    some = [c for c in candidates if c.name in ("conv_in.weight", "mid_block.attentions.0.proj_in.weight")]
    assert len(some) == 2
    weights = Weights(weight_files(spec.part("unet")))
    found = sensitivities(graph, some, weights, paths, lambda name: None, Journal(tmp_path / "j", "x"))
    layers = json.loads((bundles[4] / "unet/quantization.json").read_text())["layers"]
    for candidate in some:
        one = replace(spec.recipe, layers={f"unet.{candidate.name}": 4})
        folder = export(replace(spec, recipe=one), ExportSettings(32), tmp_path / candidate.name, quiet=True)
        whole, part = (Graph(f / "unet/model.onnx", ["CPUExecutionProvider"]) for f in (bundles[32], folder))
        total, energy = 0.0, 0.0
        for path in spread(paths, 6):
            expected, output = (next(iter(run(read_feeds(path)).values())) for run in (whole, part))
            total, energy = total + ((output - expected) ** 2).sum(), energy + (expected**2).sum()
        by_bits = {option.bits: option for option in found[candidate.name]}
        assert by_bits[4].error == pytest.approx(total / energy, rel=0.02)
        assert by_bits[4].error > by_bits[8].error > by_bits[16].error >= 0
        assert layers[candidate.name] == "W4A16"


def test_backbone_takes_weights_in_the_place_of_its_own(bundles: dict[int, Path], feeds: Path) -> None:
    backbone = load_backbone(bundles[32] / "unet/model.onnx", ["conv_out.weight"], recorded(feeds, "unet")[:2])
    assert backbone.error({}) == 0
    assert backbone.error({"conv_out.weight": np.zeros((4, 32, 3, 3), np.float32)}) > 0.5
    assert not list((bundles[32] / "unet").glob("overridable*"))


def error_of(folder: Path, reference: Path, paths: list[Path]) -> float:
    found, expected = (Graph(f / "unet/model.onnx", ["CPUExecutionProvider"]) for f in (folder, reference))
    pairs = [[next(iter(run(read_feeds(path)).values())) for run in (found, expected)] for path in paths]
    return float(sum(((a - b) ** 2).sum() for a, b in pairs) / sum((b**2).sum() for _, b in pairs))


def test_gptq_export_resumes_and_beats_round_to_nearest(
    spec: ModelSpec, bundles: dict[int, Path], feeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, calls, real = tmp_path / "gptq", [], accumulate.replay

    def interrupted(graph, taps, paths, room):  # type: ignore[no-untyped-def]
        calls.append(graph.parent.name)
        if calls.count("unet") == 1 and calls[-1] == "unet":
            raise KeyboardInterrupt
        return real(graph, taps, paths, room)

    monkeypatch.setattr(accumulate, "replay", interrupted)
    gptq = ExportSettings(4, "gptq", observed=FEW)
    with pytest.raises(KeyboardInterrupt):
        export(spec, gptq, output, quiet=True)
    assert not output.exists()
    export(spec, gptq, output, quiet=True)
    assert calls.count("text_encoder") == 1  # kept over the interruption
    assert list(tmp_path.iterdir()) == [output]
    assert {p.name for p in output.iterdir()} == {p.name for p in bundles[4].iterdir()}
    paths = recorded(feeds, "unet")
    assert error_of(output, bundles[32], paths) < 0.7 * error_of(bundles[4], bundles[32], paths)
    assert manifests.read(output).raw["provenance"]["calibration_prompts"]["count"] == 6


def test_a_target_is_met_and_its_map_gives_the_same_backbone(spec: ModelSpec, tmp_path: Path) -> None:
    settings = ExportSettings(4, observed=FEW, target=target_of(None, 3.0))
    folder = export(spec, settings, tmp_path / "chosen", quiet=True)
    layers = read_layers(folder / stage.PRECISION)
    assert len(set(layers.values())) > 1
    reported = json.loads((folder / "unet/quantization.json").read_text())["layers"]
    names = {4: "W4A16", 8: "W8A16", 16: "FP16"}
    for name, bits in layers.items():
        assert reported.get(name.removeprefix("unet."), names[bits]) == names[bits]
    fp16 = sum(2 * np.prod(w.shape) for w in Weights(weight_files(spec.part("unet"))).values())
    assert (folder / "unet/model.onnx_data").stat().st_size < 1.1 * fp16 / 3.0
    mapped = replace(spec, recipe=replace(spec.recipe, layers=layers))
    again = export(mapped, ExportSettings(4), tmp_path / "mapped", quiet=True)
    assert [f for f in manifests.read(again).files if f.path.startswith("unet/")] == [
        f for f in manifests.read(folder).files if f.path.startswith("unet/")
    ]


def test_a_target_out_of_reach_is_refused_before_anything_is_observed(spec: ModelSpec, tmp_path: Path) -> None:
    for target in (target_of(100, None), target_of(None, 20.0)):
        with pytest.raises(QuantizeError, match="cannot be reached"):
            export(spec, ExportSettings(4, observed=FEW, target=target), tmp_path / "x", quiet=True)
    assert not (tmp_path / "x").exists()
    assert {p.name for p in (tmp_path / ".x.partial").glob("[!.]*")} == {"stage.json", "unet.graph"}


def test_another_target_goes_on_with_what_was_observed(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted when all is written: only widths and backbone are made anew, as if from the start."""

    def settings_for(ratio: float) -> ExportSettings:
        return ExportSettings(4, observed=FEW, target=target_of(None, ratio))

    def interrupted(staging: stage.Staging, names: Iterable[str]) -> None:
        if list(names):  # the reference inside has nothing to drop
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage.Staging, "drop", interrupted)
        export(spec, settings_for(3.0), tmp_path / "again", quiet=True)
    with monkeypatch.context() as patch:
        for name in ("write_reference", "write_feeds"):
            patch.setattr(stage, name, lambda *arguments: pytest.fail("observed twice"))
        patch.setattr(sensitivity, "load_backbone", lambda *arguments: pytest.fail("measured twice"))
        found = export(spec, settings_for(2.5), tmp_path / "again", quiet=True)
    expected = export(spec, settings_for(2.5), tmp_path / "fresh", quiet=True)
    assert manifests.read(found).files == manifests.read(expected).files
    assert not [path for path in found.iterdir() if path.name.startswith(".")]


def test_maps_and_settings_that_do_not_fit_are_named(spec: ModelSpec, tmp_path: Path) -> None:
    def mapped(layers: dict[str, int]) -> ModelSpec:
        return replace(spec, recipe=replace(spec.recipe, layers=layers))

    with pytest.raises(RecipeError, match="unknown component 'unit': did you mean 'unet'"):
        export(mapped({"unit.conv_in.weight": 4}), ExportSettings(4), tmp_path / "x", quiet=True)
    with pytest.raises(RecipeError, match=r"unknown weight 'conv_on.weight': did you mean 'conv_in.weight'"):
        export(mapped({"unet.conv_on.weight": 4}), ExportSettings(4), tmp_path / "x", quiet=True)
    with pytest.raises(QuantizeError, match="--calib-count must not be 0"):
        ExportSettings(4, "gptq", observed=ObservedPrompts(count=0))
    (tmp_path / "map.toml").write_text("[layers]\nx = 'four'\n")
    with pytest.raises(RecipeError, match="x = 'four': Input should be a valid integer"):
        read_layers(tmp_path / "map.toml")


def test_a_memory_limit_below_the_running_graph_is_refused(
    bundles: dict[int, Path], feeds: Path, tmp_path: Path
) -> None:
    with pytest.raises(QuantizeError, match=r"running the 32-bit graph took .* or --calib-count 0"):
        observe(bundles[32] / "unet/model.onnx", recorded(feeds, "unet"), tmp_path / "m", RamLimit(1))
    with pytest.raises(QuantizeError, match="unet was not run while the model was observed"):
        observe(bundles[32] / "unet/model.onnx", [], tmp_path / "m", RamLimit())
