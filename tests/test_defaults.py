"""A model without a recipe gets what one of its family would say; what a shipped recipe is about, is exported by it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import families
import pytest
import torch
from conftest import ROOT, cli
from test_boundaries import HEAVY, loaded_after

from qsched_edge.checkpoint.defaults import Traits, family_defaults
from qsched_edge.checkpoint.hub import HubId
from qsched_edge.checkpoint.identity import recipe_of_folder, recipe_of_repository
from qsched_edge.checkpoint.recipes import Overrides, plain_recipe, read_recipe, resolve, shipped_recipes
from qsched_edge.checkpoint.samplers import HISTORY, SCHEDULERS, check_scheduler
from qsched_edge.checkpoint.written import as_toml
from qsched_edge.errors import RecipeError, ScheduleError, unknown_name
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings
from qsched_edge.prompts import read_prompts

EMOJI = ROOT / "models/emoji"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion's miniature with the scheduler of a consistency model, and no recipe."""
    from diffusers import LCMScheduler

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("plain") / "mini"
    return families.save(families.stable_diffusion(LCMScheduler(**families.BETAS)), folder)


def contents(bundle: Path) -> dict[str, bytes]:
    return {p.relative_to(bundle).as_posix(): p.read_bytes() for p in sorted(bundle.rglob("*")) if p.is_file()}


def test_a_plain_folder_and_its_recipe_give_the_same_bytes(plain: Path, tmp_path: Path) -> None:
    recipe = plain.parent / "mini.toml"
    recipe.write_text('source = "mini"')
    ours, theirs = (
        contents(export(resolve(str(model)), ExportSettings(4), tmp_path / kind, quiet=True))
        for kind, model in (("folder", plain), ("recipe", recipe))
    )
    told = [json.loads(files.pop("qsched.json")) for files in (ours, theirs)]
    assert ours == theirs
    assert [raw["recipe"].pop("source") for raw in told] == [str(plain), "mini"]
    assert told[1]["recipe"].pop("folder") == str(plain.parent)
    assert told[0] == told[1]
    layers = json.loads(ours["unet/quantization.json"])["layers"]
    floats = {name for name, width in layers.items() if width == "FP16"}
    assert {name.split(".")[0] for name in floats} == {"conv_in", "conv_out", "time_embedding"}
    assert set(json.loads(ours["vae_decoder/quantization.json"])["layers"].values()) == {"FP16"}
    raw = told[0]
    assert (raw["guidance"]["default"], raw["default_steps"], raw["components"]["unet"]["precision"]) == (1, 4, "W4A16")
    assert sorted(map(int, raw["schedules"])) == list(range(1, 9))


def test_general_prompts_come_with_every_model(plain: Path) -> None:
    recipe = resolve(str(plain)).recipe
    sets = [read_prompts(recipe.path(name)) for name in (recipe.prompts, recipe.heldout)]
    assert [s.path.parent for s in sets] == [(ROOT / "calib_prompts").resolve()] * 2
    assert not set(sets[0].prompts) & set(sets[1].prompts)
    with pytest.raises(RecipeError, match="unknown shipped prompt set 'generel': did you mean 'general'"):
        recipe.path("shipped:generel")


UNET, XL, LCM, FLUX = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "LatentConsistencyModelPipeline",
    "FluxPipeline",
)
EULER, TRAILING = "EulerDiscreteScheduler", "trailing"
SAMPLING = {  # what the models' own cards and diffusers' pipelines say: steps, guidance
    Traits(LCM, "LCMScheduler", "leading", embedded=True): (4, 8.0),
    Traits(XL, "LCMScheduler", "leading", embedded=True): (4, 8.0),
    Traits(UNET, "LCMScheduler"): (4, 1.0),
    Traits(XL, "TCDScheduler", TRAILING): (4, 1.0),
    Traits(XL, "EulerAncestralDiscreteScheduler", TRAILING): (4, 0.0),
    Traits(XL, EULER, "leading"): (25, 5.0),
    Traits(UNET, "DDIMScheduler", "leading"): (25, 7.5),
    Traits(XL, EULER, "leading", name="sdxl_lightning_4step_unet"): (4, 0.0),
    Traits(FLUX, "FlowMatchEulerDiscreteScheduler"): (4, 0.0),
    Traits(FLUX, "FlowMatchEulerDiscreteScheduler", embedded=True): (28, 3.5),
    Traits("StableDiffusion3Pipeline", "FlowMatchEulerDiscreteScheduler"): (28, 7.0),
}


@pytest.mark.parametrize("traits", SAMPLING, ids=str)
def test_steps_and_guidance_follow_pipeline_and_scheduler(traits: Traits) -> None:
    found = family_defaults(traits)
    assert (found.steps[0], found.guidance) == SAMPLING[traits]
    assert found.sequence_length == (256 if traits.pipeline == FLUX and not traits.embedded else 0)
    lightning = "lightning" in traits.name
    assert found.scheduler_settings == ({"timestep_spacing": TRAILING} if lightning else {})


def test_the_embedded_models_folder_is_its_recipe(tmp_path: Path) -> None:
    assert resolve(str(EMOJI)) == resolve("emoji")
    copied = Path(shutil.copytree(EMOJI, tmp_path / "mine"))
    found = resolve(str(copied))
    assert found.recipe == replace(resolve("emoji").recipe, source=str(copied.resolve()))
    weights = copied / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert resolve(str(copied)).recipe.name == "mine"


def test_repositories_and_their_copies_are_shipped_recipes(tmp_path: Path) -> None:
    turbo = shipped_recipes()["sdxl-turbo"]
    assert recipe_of_repository(HubId("stabilityai/sdxl-turbo")) == turbo
    assert recipe_of_repository(HubId("stabilityai/sdxl-turbo", turbo.revision)) == turbo
    assert recipe_of_repository(HubId("stabilityai/sdxl-turbo", "main")) is None
    assert recipe_of_repository(HubId("someone/sdxl-turbo")) is None
    cached = tmp_path / "models--stabilityai--sdxl-turbo/snapshots" / turbo.revision
    noted = tmp_path / "download"
    for folder in (cached, noted):
        folder.mkdir(parents=True)
    assert recipe_of_folder(noted) is None
    note = noted / ".cache/huggingface/download/model_index.json.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{turbo.revision}\n0123\n1.0\n")
    for folder in (cached, noted):
        assert recipe_of_folder(folder) == replace(turbo, source=str(folder))


@pytest.mark.parametrize(
    ("traits", "advice"),
    [
        (Traits(UNET, "PNDMScheduler"), "--scheduler DDIMScheduler or EulerDiscreteScheduler"),
        (Traits(LCM, "UniPCMultistepScheduler", embedded=True), "LCM fine-tune: --scheduler LCMScheduler"),
        (Traits(UNET, "DPMSolverMultistepScheduler", name="my-lcm-v2"), "LCM fine-tune: --scheduler LCMScheduler"),
        (Traits(XL, "HeunDiscreteScheduler", name="Hyper-SDXL-4step"), "--scheduler TCDScheduler"),
        (
            Traits(XL, "DPMSolverSDEScheduler", name="DreamTurbo"),
            "Turbo or Lightning fine-tune: --scheduler EulerDiscreteScheduler",
        ),
        (Traits(FLUX, "FlowMatchHeunDiscreteScheduler"), "--scheduler FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_schedulers_with_a_history_are_refused_with_what_fits_the_model(traits: Traits, advice: str) -> None:
    with pytest.raises(ScheduleError, match=advice) as error:
        check_scheduler(traits)
    assert "did you mean" not in str(error.value)
    offered = re.findall(r"\w+Scheduler", advice)[0]
    check_scheduler(replace(traits, scheduler=offered))


def test_every_scheduler_named_here_is_one_of_diffusers() -> None:
    import diffusers

    assert [name for name in (*HISTORY, *SCHEDULERS) if not hasattr(diffusers, name)] == []


def test_a_scheduler_is_refused_before_anything_heavy_is_imported(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "dreamshaper"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", "PNDMScheduler"]}))
    code = (
        "from qsched_edge.cli.bundles import ExportOptions, export\n"
        f"try:\n export(ExportOptions(model={str(folder)!r}))\n raise SystemExit(9)"
    )
    added = loaded_after(f"{code}\nexcept Exception as e:\n assert 'looks back' in str(e), e")
    assert not added & (set(HEAVY) - {"numpy", "onnxruntime", "typer"})
    assert resolve(str(folder), Overrides(scheduler="LCMScheduler")).recipe.guidance == 1.0


def test_only_names_that_are_alike_are_proposed() -> None:
    assert "did you mean" not in unknown_name("scheduler", "MyScheduler", SCHEDULERS)
    assert "did you mean 'LCMScheduler'" in unknown_name("scheduler", "lcmscheduler", SCHEDULERS)
    assert "did you mean 'EulerDiscreteScheduler'" in unknown_name("scheduler", "EulerDiscretScheduler", SCHEDULERS)


def test_the_command_line_says_more_than_the_recipe(plain: Path, tmp_path: Path) -> None:
    said = Overrides((2, 12), 3.0, 16, 24, "TCDScheduler", group_size=32, symmetric=True)
    recipe = resolve(str(plain), said).recipe
    assert (recipe.steps, recipe.guidance, recipe.height, recipe.width) == ((2, 12), 3.0, 16, 24)
    assert (recipe.scheduler, recipe.group_size, recipe.symmetric) == ("TCDScheduler", 32, True)
    with pytest.raises(RecipeError, match="options: height"):
        resolve(str(plain), Overrides(height=-1))
    with pytest.raises(RecipeError, match="group_size 7"):
        resolve(str(plain), Overrides(group_size=7))
    bundle = tmp_path / "bundle"
    options = ("--steps", "2,12", "--guidance-scale", 3, "--height", 16, "--width", 24, "--scheduler", "TCDScheduler")
    done = cli("export", "-m", plain, "--bits", 8, *options, "--symmetric", "-o", bundle, "--quiet")
    assert done.returncode == 0, done.stderr
    raw = json.loads((bundle / "qsched.json").read_text())
    assert raw["default_steps"] == 2
    assert sorted(map(int, raw["schedules"])) == [*range(1, 9), 12]
    assert (raw["latents"]["height"], raw["latents"]["width"], raw["guidance"]["default"]) == (8, 12, 3.0)
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["unet"][1] == "W8A16"
    assert int(rows["unet"][2].replace(",", "")) == sum(p.stat().st_size for p in (bundle / "unet").iterdir())
    assert done.stdout.splitlines()[-1].startswith(f"{bundle}: ")


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_written_recipe_reads_as_the_one_it_was_written_from(name: str, tmp_path: Path) -> None:
    recipe = shipped_recipes()[name]
    whole = replace(recipe, steps=recipe.steps or (4,), guidance=2.0 if recipe.guidance is None else recipe.guidance)
    path = tmp_path / f"{name}.toml"
    path.write_text(as_toml(whole))
    found = read_recipe(path)
    for key in ("source", "prompts", "scorer", "fit_references"):
        if getattr(recipe, key):
            ours, theirs = (r.path(getattr(r, key)) for r in (found, whole))
            assert ours == theirs or not theirs.exists()
    same = dict.fromkeys(("source", "prompts", "heldout", "scorer", "evaluator", "fit_references"), "")
    assert replace(found, folder=Path(), **same) == replace(whole, folder=Path(), inherit=False, **same)


def test_the_recipe_command_writes_what_export_would_go_by(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    done = cli("recipe", plain, "-o", path)
    assert (done.returncode, done.stdout) == (0, f"{path}\n"), done.stderr
    ours, theirs = resolve(str(path)).recipe, resolve(str(plain)).recipe
    same = {"name": "", "folder": Path(), "inherit": True}
    assert replace(ours, **same) == replace(theirs, **same)
    assert ours.scheme("unet", "conv_in.weight", 4, "rtn").weight_bits == 16
    assert plain_recipe("x", "y").scheme("unet", "conv_in.weight", 4, "rtn").weight_bits == 4
