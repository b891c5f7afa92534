"""Every family's miniature: exported by the command line's stage, drawn by the runtime, compared with diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from qsched_runtime import Sampler

from qsched_edge.bundle.opened import open_bundle
from qsched_edge.calibrate.decoder import Decoder
from qsched_edge.calibrate.session import setup_of
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import ModelSpec, resolve
from qsched_edge.choices import Choices
from qsched_edge.evaluate.settings import EvaluationSettings
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings

PROMPTS = ["a red apple, noto style", "an ant, twemoji style, on a blue background"]
SIZES = [(16, 16), (24, 32)]
JUDGED = f"""prompts = "{ROOT}/calib_prompts/emoji.txt"
heldout = "{ROOT}/calib_prompts/emoji-heldout.txt"
scorer = "{ROOT}/models/emoji-scorer"
text_image = "clip"
quality = "clip-iqa"
quality_prompts = ["a clean drawing of {{prompt}}", "a corrupted drawing of {{prompt}}"]
evaluator = "{ROOT}/models/emoji-evaluator"
"""


def turbo():  # type: ignore[no-untyped-def]
    from diffusers import EulerAncestralDiscreteScheduler

    return EulerAncestralDiscreteScheduler(**families.BETAS, timestep_spacing="trailing")


def stock():  # type: ignore[no-untyped-def]
    """The scheduler SD1.5 and SDXL base ship with; LoRA recipes put another in its place."""
    from diffusers import PNDMScheduler

    return PNDMScheduler(**families.BETAS, skip_prk_steps=True)


# name -> (builder, recipe lines)
FAMILIES = {
    "sd-turbo": (lambda: families.stable_diffusion(turbo()), "steps = [4, 1]\nguidance = 0.0"),
    "sdxl-turbo": (lambda: families.stable_diffusion_xl(turbo()), "steps = [4, 1]\nguidance = 0.0"),
    "lcm-sd15": (
        lambda: families.stable_diffusion(stock()),
        'steps = [4, 2]\nguidance = 1.5\nscheduler = "LCMScheduler"\nlora = "lora.safetensors"',
    ),
    "pcm-sdxl": (
        lambda: families.stable_diffusion_xl(stock()),
        'steps = [4, 2]\nguidance = 3.0\nscheduler = "TCDScheduler"\nlora = "lora.safetensors"\n'
        'scheduler_settings = { timestep_spacing = "trailing" }',
    ),
    "flux": (families.flux, "steps = [4, 1]\nguidance = 0.0\nsequence_length = 16\nheight = 16\nwidth = 16"),
    "flux2-klein": (
        families.flux2_klein,
        "steps = [4, 1]\nguidance = 1.0\nsequence_length = 48\nheight = 16\nwidth = 16",
    ),
    "z-image-turbo": (
        families.z_image,
        "steps = [8, 1]\nguidance = 0.0\nsequence_length = 80\nheight = 16\nwidth = 16",
    ),
    "sd3-turbo": (families.stable_diffusion_3, "steps = [4, 1]\nguidance = 2.0\nsequence_length = 16"),
}


# the LoRA recipes of the other base model, and a schedule that shifts: drawn at full precision only, the rest of the
# path is the same
CROSSED = {
    "lcm-sdxl": (
        lambda: families.stable_diffusion_xl(stock()),
        'steps = [4, 2]\nguidance = 1.0\nscheduler = "LCMScheduler"\nlora = "lora.safetensors"',
    ),
    "flux-shifted": (
        lambda: families.flux(use_dynamic_shifting=True, base_shift=1.5, base_image_seq_len=20, max_image_seq_len=60),
        "steps = [4]\nguidance = 0.0\nsequence_length = 16\nheight = 16\nwidth = 16",
    ),
    "pcm-sd15": (
        lambda: families.stable_diffusion(stock()),
        'steps = [2]\nguidance = 7.5\nscheduler = "TCDScheduler"\nlora = "lora.safetensors"\nlora_scale = 0.8\n'
        'scheduler_settings = { timestep_spacing = "trailing" }',
    ),
}


def saved_miniature(name: str, folder: Path) -> ModelSpec:
    """The family's miniature, saved by diffusers, with a recipe beside it."""
    build, lines = (FAMILIES | CROSSED)[name]
    torch.manual_seed(0)
    pipeline = build()
    families.save(pipeline, folder / name)
    if "lora" in lines:
        families.save_lora(pipeline, folder / "lora.safetensors")
    recipe = folder / f"mini-{name}.toml"
    head = f'title = "Miniature"\nsource = "{name}"\nlicense = "CC0-1.0"\ngroup_size = 16\n'
    recipe.write_text(f"{head}{lines}\n{JUDGED}")
    return resolve(str(recipe))


@pytest.fixture(scope="module", params=FAMILIES)
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return saved_miniature(request.param, tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def bundle(spec: ModelSpec) -> Path:
    output = spec.recipe.folder / "w32"
    return export(spec, ExportSettings(32, choices=Choices(encoder=True)), output, quiet=True)


@pytest.fixture(scope="module")
def oracle(spec: ModelSpec):  # type: ignore[no-untyped-def]
    return stock_pipeline(spec)


def stock_pipeline(spec: ModelSpec):  # type: ignore[no-untyped-def]
    """The stock pipeline, with the recipe's scheduler and LoRA put in by diffusers."""
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(spec.folder, safety_checker=None)
    chosen = getattr(diffusers, spec.recipe.scheduler or type(pipeline.scheduler).__name__)
    if spec.recipe.scheduler or spec.recipe.scheduler_settings:
        pipeline.scheduler = chosen.from_config(pipeline.scheduler.config, **spec.recipe.scheduler_settings)
    if spec.recipe.lora:
        pipeline.load_lora_weights(spec.recipe.folder, weight_name=spec.recipe.lora)
        pipeline.fuse_lora(lora_scale=spec.recipe.lora_scale)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn_by_diffusers(pipeline, spec: ModelSpec, **request) -> np.ndarray:  # type: ignore[no-untyped-def]
    if spec.recipe.sequence_length:
        request["max_sequence_length"] = spec.recipe.sequence_length
    generator = torch.Generator("cpu").manual_seed(5)
    guidance = spec.recipe.guidance
    asked = {"prompt": list(PROMPTS), "guidance_scale": guidance, "generator": generator, "output_type": "np"}
    return np.asarray(np.round(pipeline(**asked, **request).images * 255))


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    difference = np.abs(ours - theirs)
    assert ours.std() > 5, "a flat picture would agree with anything"
    assert difference.max() <= 2
    assert difference.mean() <= 0.1


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_runtime_draws_what_diffusers_draws(spec: ModelSpec, bundle: Path, oracle, size: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    assert_draws_alike(spec, bundle, oracle, size)


@pytest.mark.parametrize("name", CROSSED)
def test_loras_fit_either_base_and_schedules_shift_with_the_size(name: str, tmp_path: Path) -> None:
    spec = saved_miniature(name, tmp_path)
    bundle = export(spec, ExportSettings(32), tmp_path / "w32", quiet=True)
    assert_draws_alike(spec, bundle, stock_pipeline(spec), SIZES[1])


def assert_draws_alike(spec: ModelSpec, bundle: Path, oracle, size: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    sampler = Sampler.from_pretrained(bundle)
    for steps in spec.recipe.steps:
        theirs = drawn_by_diffusers(oracle, spec, num_inference_steps=steps, height=size[0], width=size[1])
        ours = sampler(PROMPTS, seed=5, num_inference_steps=steps, height=size[0], width=size[1]).images
        assert_same(ours, theirs)


IMAGE_TO_IMAGE = {
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusion3Pipeline": "StableDiffusion3Img2ImgPipeline",
    "FluxPipeline": "FluxImg2ImgPipeline",
    "ZImagePipeline": "ZImageImg2ImgPipeline",
    # LatentConsistencyModelImg2ImgPipeline derives other timesteps from the strength, as the README says
    "LatentConsistencyModelPipeline": "StableDiffusionImg2ImgPipeline",
}


def test_sampling_starts_from_a_picture_as_diffusers_does(spec: ModelSpec, bundle: Path, oracle) -> None:  # type: ignore[no-untyped-def]
    import diffusers
    from PIL import Image

    pictures = np.random.default_rng(0).integers(0, 256, size=(2, 16, 16, 3), dtype=np.uint8)
    if spec.pipeline not in IMAGE_TO_IMAGE:
        pytest.skip("diffusers has no such pipeline")
    pipeline = getattr(diffusers, IMAGE_TO_IMAGE[spec.pipeline]).from_pipe(oracle)
    pipeline.set_progress_bar_config(disable=True)
    steps, sampler = max(spec.recipe.steps), Sampler.from_pretrained(bundle)
    sized = ("FluxPipeline", "StableDiffusion3Pipeline", "ZImagePipeline")
    sizes = {"height": 16, "width": 16} if spec.pipeline in sized else {}
    for given, strength in ((pictures, 0.5), (pictures[0], 0.8), (pictures[:1], 0.3), (pictures, 1.0)):
        if int(steps * strength) == 0:
            continue
        images = [Image.fromarray(p) for p in given.reshape(-1, 16, 16, 3)]
        request = {"image": images, "strength": strength, "num_inference_steps": steps, **sizes}
        theirs = drawn_by_diffusers(pipeline, spec, **request)
        ours = sampler(PROMPTS, seed=5, num_inference_steps=steps, image=given, strength=strength).images
        assert_same(ours, theirs)


def test_flux2_starts_from_a_picture_where_its_scheduler_would(tmp_path: Path) -> None:
    """Its pipelines take pictures as references only: the stock one is given the noised latents and the last sigmas."""
    from PIL import Image

    spec = saved_miniature("flux2-klein", tmp_path)
    settings = ExportSettings(32, choices=Choices(encoder=True))
    sampler = Sampler.from_pretrained(export(spec, settings, tmp_path / "w32", quiet=True))
    pipeline, pictures = stock_pipeline(spec), np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    with torch.no_grad():
        pixels = pipeline.image_processor.preprocess([Image.fromarray(p) for p in pictures], height=16, width=24)
        clean = pipeline._encode_vae_image(pixels, generator=None)
    noise = torch.randn(clean.shape, generator=torch.Generator("cpu").manual_seed(5))
    for strength, first in ((1.0, 0), (0.8, 0), (0.5, 2)):
        sigmas = np.linspace(1.0, 1 / 4, 4)[first:]
        pipeline.scheduler.set_timesteps(sigmas=sigmas, mu=compute_empirical_mu(clean[0, 0].numel(), 4))
        noised = pipeline.scheduler.scale_noise(clean, pipeline.scheduler.timesteps[:1], noise)
        request = {"latents": noised, "sigmas": sigmas, "num_inference_steps": 4, "height": 16, "width": 24}
        theirs = drawn_by_diffusers(pipeline, spec, **request)
        assert_same(sampler(PROMPTS, seed=5, num_inference_steps=4, image=pictures, strength=strength).images, theirs)
    differentiable = Decoder(spec.part("vae"), sampler.manifest.latents)(clean).numpy()
    np.testing.assert_allclose(differentiable, np.clip(sampler.decode(clean.numpy()) / 2 + 0.5, 0, 1), atol=1e-4)


def test_a_tiny_decoder_draws_and_reads_pictures_as_in_diffusers(tmp_path: Path) -> None:
    from diffusers import StableDiffusionImg2ImgPipeline
    from PIL import Image

    spec = saved_miniature("sd-turbo", tmp_path)
    tiny = families.tiny_vae()
    tiny.save_pretrained(tmp_path / "tiny")
    config = json.loads((tmp_path / "tiny/config.json").read_text())
    config.pop("block_out_channels", None)  # older files lack it
    (tmp_path / "tiny/config.json").write_text(json.dumps(config))
    recipe = tmp_path / "mini-sd-turbo.toml"
    recipe.write_text('tiny_decoder = "tiny"\n' + recipe.read_text())
    spec, choices = resolve(str(recipe)), Choices(encoder=True, decoder="tiny")
    bundle = export(spec, ExportSettings(32, choices=choices), tmp_path / "w32", quiet=True)
    oracle = stock_pipeline(spec)
    oracle.vae = tiny.eval()
    assert_draws_alike(spec, bundle, oracle, SIZES[1])
    pipeline = StableDiffusionImg2ImgPipeline(**oracle.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    picture = np.random.default_rng(0).integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
    pictures = [Image.fromarray(picture)] * 2
    theirs = drawn_by_diffusers(pipeline, spec, image=pictures, strength=0.5, num_inference_steps=4)
    sampler = Sampler.from_pretrained(bundle)
    assert_same(sampler(PROMPTS, seed=5, num_inference_steps=4, image=picture, strength=0.5).images, theirs)
    setup = setup_of(open_bundle(bundle), spec, CalibrationSettings(loss="jaq"), False)
    z = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
    differentiable = Decoder(setup.vae, sampler.manifest.latents)(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(differentiable, np.clip(sampler.decode(z) / 2 + 0.5, 0, 1), atol=1e-4)


def test_negative_prompts_guide_as_diffusers_does(spec: ModelSpec, bundle: Path, oracle) -> None:  # type: ignore[no-untyped-def]
    if spec.recipe.guidance <= 1:
        pytest.skip("this recipe runs without guidance")
    steps = spec.recipe.steps[0]
    sampler, request = Sampler.from_pretrained(bundle), {"num_inference_steps": steps, "height": 16, "width": 16}
    for ours, theirs in (("blue", ["blue"] * 2), (["blue", "a dog"], ["blue", "a dog"]), ("", ["", ""]), (None, None)):
        expected = drawn_by_diffusers(oracle, spec, negative_prompt=theirs, **request)
        assert_same(sampler(PROMPTS, seed=5, negative_prompt=ours, **request).images, expected)


@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_quantized_bundles_take_the_whole_path(spec: ModelSpec, bundle: Path, bits: int, tmp_path: Path) -> None:
    from qsched_edge.calibrate import run as calibration
    from qsched_edge.evaluate import run as evaluation

    choices = Choices(encoder=True)
    folder = export(spec, ExportSettings(bits, choices=choices), tmp_path / "bundle", quiet=True)
    model = str(spec.recipe.folder / f"{spec.recipe.name}.toml")
    few = CalibrationSettings(points=2, iterations=2, fit_prompts=4, heldout_prompts=4)
    record = calibration.calibrate(folder, few, None, None, model, quiet=True).record
    assert len(record["c_x"]) == len(record["c_eps"]) == spec.recipe.steps[0]
    settings = EvaluationSettings(prompts=2, seeds=1, reference=bundle)
    report = evaluation.evaluate(folder, tmp_path / "report", settings, None, model, quiet=True)
    assert all(np.isfinite(list(cell.values())).all() for cell in report["cells"].values())
    images = Sampler.from_pretrained(folder)(PROMPTS, seed=5, height=16, width=16).images
    assert images.shape == (2, 16, 16, 3)
    assert images.std() > 5


def test_a_network_of_four_levels_is_captured_for_all_sizes() -> None:
    """SD1.5 and SD-Turbo halve their latents three times."""
    from qsched_edge.capture.unet import capture_unet

    network = families.unet(32).config | {
        "block_out_channels": [32] * 4,
        "down_block_types": ["DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
    }
    shape = capture_unet(network, 24).model.graph.inputs[0].shape
    assert shape is not None
    assert [isinstance(dim, int) for dim in shape] == [False, True, False, False]
