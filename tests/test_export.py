"""The export stage: sizes, layout, resume after an interruption, and inputs it must refuse."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
from qsched_runtime import manifest as manifests

import qsched_edge.export.run as stage
from qsched_edge.checkpoint.recipes import read_recipe, resolve, shipped_recipes
from qsched_edge.errors import OutputExistsError, RecipeError, WeightsError
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings
from qsched_edge.quantize.store import Packed, Stored, TensorStore


def test_graphs_keep_to_what_all_runtimes_read(bundles: dict[int, Path]) -> None:
    for component in manifests.read(bundles[4]).components.values():
        model = onnx.load(bundles[4] / component.file, load_external_data=False)
        assert model.ir_version == 10
        assert {o.domain: o.version for o in model.opset_import} == {"": 21, "com.microsoft": 1}
        onnx.checker.check_model(str(bundles[4] / component.file))
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_every_large_weight_of_the_backbone_is_packed_unless_kept(bundles: dict[int, Path]) -> None:
    layers = json.loads((bundles[4] / "unet/quantization.json").read_text())["layers"]
    floats = {name for name, precision in layers.items() if precision != "W4A16"}
    assert floats == {"conv_out.weight"}


def test_three_bits_and_8_bit_activations_are_named_and_draw(recipe: Path, tmp_path: Path) -> None:
    from qsched_runtime import Sampler

    folder = export(resolve(str(recipe)), ExportSettings(3, activation_bits=8), tmp_path / "bundle", quiet=True)
    unet = json.loads((folder / "unet/quantization.json").read_text())
    assert unet["precision"] == "W3A8"
    assert unet["layers"]["conv_in.weight"] == "W3A8"
    assert unet["layers"]["conv_out.weight"] == "FP16"
    text = json.loads((folder / "text_encoder/quantization.json").read_text())["layers"]
    table = next(precision for name, precision in text.items() if name.endswith("token_embedding.weight"))
    assert table in ("W3A16", "FP16"), "tables have no activations"
    used = [n.op_type for n in onnx.load(folder / "unet/model.onnx", load_external_data=False).graph.node]
    assert used.count("DynamicQuantizeLinear") >= used.count("Conv") - 1 > 0
    assert Sampler.from_pretrained(folder)("a cat", seed=1).images.std() > 1


def test_an_interrupted_export_resumes_and_gives_the_same_bytes(
    recipe: Path, bundles: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, output = resolve(str(recipe)), tmp_path / "bundle"
    captured: list[str] = []
    write = stage.write_component

    def interrupted(job, plan, moments_of, folder):  # type: ignore[no-untyped-def]
        if plan.name == "vae_decoder" and "vae_decoder" not in captured:
            captured.append(plan.name)
            (folder / "model.onnx_data").write_bytes(b"half")
            raise KeyboardInterrupt
        captured.append(plan.name)
        write(job, plan, moments_of, folder)

    monkeypatch.setattr(stage, "write_component", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(spec, ExportSettings(4), output, quiet=True)
    assert not output.exists()
    export(spec, ExportSettings(4), output, quiet=True)
    assert captured == ["text_encoder", "unet", "vae_decoder", "vae_decoder"]
    assert manifests.read(output).files == manifests.read(bundles[4]).files
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("tensors", [1, 40, 97])
def test_a_death_at_any_tensor_resumes_to_the_same_bytes(
    tensors: int, recipe: Path, bundles: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, output, stored = resolve(str(recipe)), tmp_path / "bundle", []
    append = TensorStore._append

    def dying(self: TensorStore, packed: Packed) -> Stored:
        stored.append(packed.name)
        if len(stored) == tensors:
            self.file.write(b"half a tensor")
            self.file.flush()
            raise KeyboardInterrupt
        return append(self, packed)

    monkeypatch.setattr(TensorStore, "_append", dying)
    with pytest.raises(KeyboardInterrupt):
        export(spec, ExportSettings(4), output, quiet=True)
    assert not output.exists()
    export(spec, ExportSettings(4), output, quiet=True)
    assert manifests.read(output).files == manifests.read(bundles[4]).files
    again = len(stored) - len(set(stored))
    assert 1 <= again <= 4, "only the weight that was being stored is stored again"


def test_an_existing_output_needs_force(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    (output / "thesis.txt").write_text("precious")
    with pytest.raises(OutputExistsError, match="--force"):
        export(resolve(str(recipe)), ExportSettings(4), output, quiet=True)
    assert (output / "thesis.txt").read_text() == "precious"


def test_models_and_recipes_that_cannot_be_used_are_named(miniature: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown model 'emogi': did you mean 'emoji'"):
        resolve("emogi")
    with pytest.raises(RecipeError, match=r"no model_index\.json"):
        resolve(str(tmp_path))
    bad = tmp_path / "bad.toml"
    bad.write_text('title="x"\nsource="x"\nlicense="x"\nsteps=[4]\nguidance=1\nstep=3')
    with pytest.raises(RecipeError, match="unknown key 'step': did you mean 'steps'"):
        read_recipe(bad)
    folder = Path(shutil.copytree(miniature, tmp_path / "other"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "KandinskyPipeline"}))
    with pytest.raises(RecipeError, match="unknown pipeline class 'KandinskyPipeline'"):
        export(resolve(str(folder)), ExportSettings(4), tmp_path / "out", quiet=True)


def test_missing_or_damaged_weights_are_named(miniature: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(miniature, tmp_path / "model"))
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        export(resolve(str(folder)), ExportSettings(4), tmp_path / "out", quiet=True)
    weights.unlink()
    with pytest.raises(WeightsError, match="only safetensors are read"):
        export(resolve(str(folder)), ExportSettings(4), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_every_recipe_parses() -> None:
    recipes = shipped_recipes()
    assert "emoji" in recipes
    for recipe in recipes.values():
        assert recipe.title
        assert recipe.license != "unknown"
