"""Recipes and model folders that cannot be used: one line that names what is wrong, before any weight is read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import families
import pytest
import torch
from tokenizers import AddedToken

from qsched_edge.bundle import sources
from qsched_edge.checkpoint.recipes import (
    ModelSpec,
    Recipe,
    inheriting,
    read_layers,
    read_recipe,
    resolve,
    shipped_recipes,
)
from qsched_edge.checkpoint.weights import weight_files
from qsched_edge.errors import QSchedError, RecipeError, WeightsError
from qsched_edge.export.check import check_recipe
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings
from qsched_edge.observe.settings import ObservedPrompts
from qsched_edge.pipelines import Choices, layout_of

HEAD = {"title": '"M"', "source": '"miniature"', "license": '"CC0-1.0"', "steps": "[4]", "guidance": "0"}


def written(folder: Path, lines: str = "", **keys: str) -> Path:
    """A recipe with the keys it must have, `keys` in their place and `lines` at the end."""
    path = folder / "tried.toml"
    path.write_text("\n".join([*(f"{k} = {v}" for k, v in (HEAD | keys).items()), lines]))
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", "4"),
        ("steps", "[]"),
        ("steps", '["4"]'),
        ("steps", "[0]"),
        ("steps", "[-1]"),
        ("steps", "[4.5]"),
        ("steps", "[true]"),
        ("guidance", '"8"'),
        ("guidance", "nan"),
        ("guidance", "-1"),
        ("title", "2026-01-01"),
        ("title", "7"),
        ("lora_scale", '"1"'),
        ("height", '"512"'),
        ("height", "-16"),
        ("symmetric", "1"),
        ("precision", "16"),
        ("precision", "{ unet = '8' }"),
        ("keep", "{ 'unet.*' = 8.5 }"),
        ("parts", "{ unet = 3 }"),
        ("scheduler_settings", "'trailing'"),
        ("quality_prompts", "['one']"),
    ],
)
def test_a_value_of_another_type_or_range_is_refused_by_key(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"tried\.toml: {key}[.\w*]* = .*: \w+"):
        read_recipe(written(tmp_path, **{key: value}))


@pytest.mark.parametrize("lines", ["bits = 5", "group_size = 7", "[precision]\nunet = 5", "[keep]\n'unet.*' = 12"])
def test_widths_that_no_scheme_has_are_refused_with_the_recipe(lines: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"tried\.toml: .*use one of"):
        read_recipe(written(tmp_path, lines))


def test_values_of_the_right_type_are_kept_as_they_are(tmp_path: Path) -> None:
    lines = "lora_scale = -1\nheight = 512\n[scheduler_settings]\nshift = 3\nsigmas = [1.0, 0.5]\n[keep]\n'unet.*' = 16"
    recipe = read_recipe(written(tmp_path, lines, steps="[4, 1]", guidance="3"))
    assert (recipe.name, recipe.folder) == ("tried", tmp_path.resolve())
    assert (recipe.steps, recipe.guidance, recipe.lora_scale, recipe.height) == ((4, 1), 3.0, -1.0, 512)
    assert recipe.scheduler_settings == {"shift": 3, "sigmas": [1.0, 0.5]}
    assert recipe.keep == {"unet.*": 16}


def test_a_precision_map_with_a_width_that_no_scheme_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precision.toml").write_text("[layers]\n'unet.x' = 5")
    with pytest.raises(RecipeError, match=r"precision\.toml: weight_bits 5: use one of"):
        read_layers(tmp_path / "precision.toml")


@pytest.mark.parametrize("text", ["layers = 4", "[layers]\n'unet.x' = '4'", "[layers]\n'unet.x' = true"])
def test_a_precision_map_of_another_type_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "precision.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"precision\.toml: .* = .*: \w+"):
        read_layers(tmp_path / "precision.toml")


@pytest.fixture
def model(miniature: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(miniature, tmp_path / "miniature"))


def refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: ExportSettings | None = None
) -> str:
    """The line that an export is refused with; fails if a weight was read or anything was left behind."""
    monkeypatch.setattr(sources, "sha256", lambda file: pytest.fail(f"{file} was read"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(QSchedError) as caught:
        export(resolve(str(model)), settings or ExportSettings(4), tmp_path / "out", quiet=True)
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


def edit(file: Path, **keys: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


def drop(folder: Path) -> None:
    shutil.rmtree(folder)


def unindexed(model: Path) -> None:
    (model / "unet/diffusion_pytorch_model.safetensors").unlink()
    (model / "unet/diffusion_pytorch_model.safetensors.index.json").write_text("{}")


def with_a_whole_word_token(model: Path) -> None:
    tokenizer = families.clip_tokenizer()
    tokenizer.add_tokens(AddedToken("<sks>", single_word=True))
    tokenizer.save_pretrained(model / "tokenizer")


DAMAGE = {
    "PNDMScheduler looks back at earlier steps": lambda m: (
        edit(m / "scheduler/scheduler_config.json", _class_name="PNDMScheduler"),
        edit(m / "model_index.json", scheduler=["diffusers", "PNDMScheduler"]),
    ),
    "unknown scheduler 'MyScheduler'": lambda m: edit(m / "model_index.json", scheduler=["mine", "MyScheduler"]),
    "names no scheduler": lambda m: edit(m / "model_index.json", scheduler=None),
    "names no vae": lambda m: edit(m / "model_index.json", vae=None),
    "its vae is a VQModel": lambda m: edit(m / "model_index.json", vae=["diffusers", "VQModel"]),
    "names no pipeline class": lambda m: (m / "model_index.json").write_text('{"unet": ["diffusers", "X"]}'),
    "holds a list, not an object": lambda m: (m / "model_index.json").write_text("[]"),
    "tokenizer holds no tokenizer": lambda m: drop(m / "tokenizer"),
    "cannot be read as a CLIPTokenizer": lambda m: (m / "tokenizer/tokenizer.json").write_text("{}"),
    "model_max_length is 77": lambda m: edit(m / "tokenizer/tokenizer_config.json", model_max_length=77),
    "its text encoder knows 10": lambda m: edit(m / "text_encoder/config.json", vocab_size=10),
    "its added token '<sks>' is single_word": with_a_whole_word_token,
    "is no index of shards": unindexed,
}


@pytest.mark.parametrize("expected", DAMAGE)
def test_damaged_folders_are_refused_before_a_weight_is_read(
    expected: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    DAMAGE[expected](model)
    assert expected in refused(model, tmp_path, monkeypatch)


RECIPES = {
    "'clip_sampl': did you mean 'clip_sample'": "scheduler_settings = { clip_sampl = false }",
    "trailin is not supported": "scheduler = 'DDIMScheduler'\nscheduler_settings = { timestep_spacing = 'trailin' }",
    "turn off clip_sample": "scheduler = 'DDIMScheduler'\nscheduler_settings = { clip_sample = true }",
    "LCMScheduler has no schedule of 60 steps": "steps = [4, 60]",
    "height 18 does not fit: use a multiple of 4": "height = 18",
    "[parts]: unknown component 'unett': did you mean 'unet'": "parts = { unett = 'miniature/unet' }",
    "[precision]: unknown component 'vae_decodr': did you mean 'vae_decoder'": "precision = { vae_decodr = 8 }",
    "[keep]: unknown component 'unt': did you mean 'unet'": "keep = { 'unt.conv_in.*' = 16 }",
    "[keep]: unknown component 'unet_conv_in'": "keep = { unet_conv_in = 16 }",
    "[keep]: 'unet.conv_inn.*' matches no weight": "keep = { 'unet.conv_inn.*' = 16 }",
    "[keep]: '*embeding.weight' matches no weight": "keep = { '*embeding.weight' = 16 }",
    "[layers]: unknown component 'unt'": "layers = { 'unt.conv_in.weight' = 16 }",
}


@pytest.mark.parametrize("expected", RECIPES)
def test_names_and_numbers_that_fit_nothing_are_refused_before_a_weight_is_read(
    expected: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = RECIPES[expected]
    steps = {"steps": lines.split(" = ")[1]} if lines.startswith("steps") else {}
    recipe = written(tmp_path, "" if steps else lines, **steps)
    assert expected in refused(recipe, tmp_path, monkeypatch)


def test_more_calibration_prompts_than_there_are_are_refused_before_a_weight_is_read(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ExportSettings(4, "gptq", observed=ObservedPrompts(count=100_000))
    assert "100000 were asked for" in refused(recipe, tmp_path, monkeypatch, asked)


def test_a_pattern_for_another_autoencoder_is_said_and_no_error(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = resolve(str(written(tmp_path, "keep = { 'vae_decoder.decoder.layers.*' = 16, 'vae_encoder.*' = 16 }")))
    check_recipe(spec, layout_of(spec, Choices(encoder=True)))
    (line,) = capsys.readouterr().err.splitlines()
    assert "'vae_decoder.decoder.layers.*' matches no weight" in line


def test_a_damaged_shard_index_names_itself(tmp_path: Path) -> None:
    for text in ("{}", "[]", '{"weight_map": 3}', "{"):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json is no index of shards"):
            weight_files(tmp_path)


SHIPPED = list(shipped_recipes().values())


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Miniatures in the place of what the recipes name on the hub."""
    from diffusers import LCMScheduler

    torch.manual_seed(0)
    kinds = {
        "sd": families.stable_diffusion,
        "xl": families.stable_diffusion_xl,
        "flux.1": lambda _: families.flux(),
        "flux.2": lambda _: families.flux2_klein(),
        "z-image": lambda _: families.z_image(),
        "-3.5-": lambda _: families.stable_diffusion_3(),
    }
    folder = tmp_path_factory.mktemp("stand-ins")
    return {name: families.save(build(LCMScheduler(**families.BETAS)), folder / name) for name, build in kinds.items()}


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda r: r.name)
def test_every_shipped_recipe_names_what_its_model_has(
    recipe: Recipe, stand_ins: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = recipe.source.lower().replace("segmind/", "xl/")
    (stand_in,) = {s for s in stand_ins if s != "sd" and s in source} or {"sd"}
    folder = recipe.path(recipe.source) if recipe.name == "emoji" else stand_ins[stand_in]
    parts = {name: str(folder / name) for name in recipe.parts}
    index = json.loads((folder / "model_index.json").read_text())
    spec = inheriting(ModelSpec(replace(recipe, source=str(folder), parts=parts, single_file=""), folder, index))
    check_recipe(spec, layout_of(spec, Choices(encoder=True)))
    assert capsys.readouterr().err == ""


def test_a_number_that_is_not_finite_is_refused_when_the_recipe_is_read(recipe: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(
        recipe.read_text().replace("group_size", "scheduler_settings = { lambda_min_clipped = -inf }\ngroup_size")
    )
    with pytest.raises(RecipeError, match=r"scheduler_settings\.lambda_min_clipped is not a finite number"):
        read_recipe(bad)
