"""Schedule tables against the stock schedulers' own trajectories; the laws of the coefficients."""

import json
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from hypothesis import given, settings
from hypothesis import strategies as st
from qsched_runtime import BundleError, Coefficients, ScheduleTable
from qsched_runtime.manifest import LatentSpec
from qsched_runtime.noise import TorchNoise
from qsched_runtime.schedule import COLUMNS, Shift, ShiftLine

from qsched_edge.checkpoint.recipes import Recipe, shipped_recipes
from qsched_edge.checkpoint.schedule import Sampling, fingerprint, probe, schedules_of, stock_config
from qsched_edge.checkpoint.timesteps import probe_at
from qsched_edge.errors import ScheduleError
from qsched_edge.pipelines.parts import shift_by

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
CASES = [
    ("LCMScheduler", BETAS, (1, 2, 4, 8)),
    ("LCMScheduler", {**BETAS, "prediction_type": "v_prediction"}, (1, 4)),
    ("TCDScheduler", BETAS, (2, 4, 8)),
    ("EulerAncestralDiscreteScheduler", {**BETAS, "timestep_spacing": "trailing"}, (1, 4)),
    ("EulerDiscreteScheduler", {**BETAS, "timestep_spacing": "trailing"}, (1, 4)),
    ("DDIMScheduler", {**BETAS, "clip_sample": False}, (4,)),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, (1, 4)),
]
STABLE_DIFFUSION = {**BETAS, "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
TRAILING = {**STABLE_DIFFUSION, "timestep_spacing": "trailing"}
PUBLISHED = {  # the scheduler_config.json of each checkpoint
    "../models/emoji": {
        **BETAS, "steps_offset": 0, "prediction_type": "v_prediction", "_class_name": "LCMScheduler"
    },
    "stabilityai/sd-turbo": {**TRAILING, "_class_name": "EulerDiscreteScheduler"},
    "stabilityai/sdxl-turbo": {**TRAILING, "_class_name": "EulerAncestralDiscreteScheduler"},
    "stabilityai/stable-diffusion-xl-base-1.0": {
        **STABLE_DIFFUSION, "timestep_spacing": "leading", "_class_name": "EulerDiscreteScheduler"
    },
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {**STABLE_DIFFUSION, "_class_name": "PNDMScheduler"},
    "SimianLuo/LCM_Dreamshaper_v7": {**BETAS, "original_inference_steps": 50, "_class_name": "LCMScheduler"},
    "black-forest-labs/FLUX.1-schnell": {"shift": 1.0, "_class_name": "FlowMatchEulerDiscreteScheduler"},
    "black-forest-labs/FLUX.2-klein-4B": {
        "shift": 3.0, "use_dynamic_shifting": True, "_class_name": "FlowMatchEulerDiscreteScheduler"
    },
    "Tongyi-MAI/Z-Image-Turbo": {"shift": 3.0, "_class_name": "FlowMatchEulerDiscreteScheduler"},
    "stabilityai/stable-diffusion-3.5-large-turbo": {"shift": 3.0, "_class_name": "FlowMatchEulerDiscreteScheduler"},
    "segmind/SSD-1B": {**STABLE_DIFFUSION, "_class_name": "EulerDiscreteScheduler"},
    "segmind/Segmind-Vega": {**STABLE_DIFFUSION, "_class_name": "EulerDiscreteScheduler"},
}  # fmt: skip
PIPELINE = {  # the others are StableDiffusionPipeline
    "../models/emoji": "LatentConsistencyModelPipeline",
    "SimianLuo/LCM_Dreamshaper_v7": "LatentConsistencyModelPipeline",
    "stabilityai/sdxl-turbo": "StableDiffusionXLPipeline",
    "stabilityai/stable-diffusion-xl-base-1.0": "StableDiffusionXLPipeline",
    "black-forest-labs/FLUX.1-schnell": "FluxPipeline",
    "black-forest-labs/FLUX.2-klein-4B": "Flux2KleinPipeline",
    "Tongyi-MAI/Z-Image-Turbo": "ZImagePipeline",
    "stabilityai/stable-diffusion-3.5-large-turbo": "StableDiffusion3Pipeline",
    "segmind/SSD-1B": "StableDiffusionXLPipeline",
    "segmind/Segmind-Vega": "StableDiffusionXLPipeline",
}
RECIPES = list(shipped_recipes().values())
SHAPE = (1, 4, 8, 8)
ETA = 0.3


def config_of(name: str, settings: dict) -> dict:
    return {**getattr(diffusers, name)(**settings).config, "_class_name": name}


def random_denoiser(x: np.ndarray) -> np.ndarray:
    weights = np.random.default_rng(3).normal(size=(256, 256)).astype(np.float32) / 16
    return (x.reshape(1, -1) @ weights).reshape(SHAPE)


def stock_trajectory(scheduler, eta: float = ETA, **timesteps) -> np.ndarray:  # type: ignore[no-untyped-def]
    scheduler.set_timesteps(**timesteps)
    generator = torch.Generator("cpu").manual_seed(7)
    x = torch.randn(SHAPE, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    takes_eta = type(scheduler).__name__ in ("TCDScheduler", "DDIMScheduler")
    extra = {"generator": generator, **({"eta": eta} if takes_eta else {})}
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        e = torch.from_numpy(random_denoiser(scaled.numpy()))
        x = scheduler.step(e, t, x, return_dict=False, **extra)[0]
    return x.numpy()


def table_trajectory(table: ScheduleTable) -> np.ndarray:
    noise, folded = TorchNoise(7), table.folded(Coefficients.identity(len(table)))
    x = noise.randn(SHAPE) * np.float32(table.init_noise_sigma)
    for i in range(len(table)):
        e = random_denoiser(folded.scale_model_input(x, i))
        x = folded.step(x, e, noise.randn(SHAPE) if folded.draws_noise(i) else None, i)
    return x


@pytest.mark.parametrize(("name", "settings", "steps"), [(n, s, k) for n, s, ks in CASES for k in ks])
def test_table_gives_the_stock_trajectory(name: str, settings: dict, steps: int) -> None:
    stock = stock_trajectory(getattr(diffusers, name)(**settings), num_inference_steps=steps)
    ours = table_trajectory(probe(config_of(name, settings), steps, Sampling(eta=ETA)))
    assert np.abs(ours - stock).max() <= 1e-5 * np.abs(stock).max()


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [(r, k) for r in RECIPES for k in r.steps or (1, 4)],
    ids=lambda v: getattr(v, "name", v),
)
def test_every_recipe_samples_as_its_stock_scheduler(recipe: Recipe, steps: int) -> None:
    published = PUBLISHED[recipe.source]
    scheduler = getattr(diffusers, published["_class_name"]).from_config(published)
    if recipe.scheduler or recipe.scheduler_settings:
        chosen = getattr(diffusers, recipe.scheduler or published["_class_name"])
        scheduler = chosen.from_config(scheduler.config, **recipe.scheduler_settings)
    flow = isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
    pipeline = PIPELINE.get(recipe.source, "StableDiffusionPipeline")
    config = stock_config(pipeline, published, recipe.scheduler, recipe.scheduler_settings)
    asked = {"sigmas": np.linspace(1.0, 1 / steps, steps)} if flow else {"num_inference_steps": steps}
    sampling = Sampling(lambda n: np.linspace(1.0, 1 / n, n)) if flow else Sampling(eta=recipe.eta)
    if published.get("use_dynamic_shifting"):
        asked["mu"] = 2.02
        sampling = replace(sampling, shift=lambda n: Shift(2.02, (ShiftLine(2**20, 0.0, 2.02),)))
    stock, table = stock_trajectory(scheduler, recipe.eta, **asked), probe(config, steps, sampling)
    assert len(table) == steps
    assert np.abs(table_trajectory(table) - stock).max() <= 1e-5 * np.abs(stock).max()


@pytest.mark.parametrize("side", [256, 512, 1024, 1056, 2048])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_a_schedule_shifts_with_the_size_as_the_stock_pipeline_does(side: int, steps: int) -> None:
    """FLUX.2's mu is of two lines, the first of which depends on the number of steps; a bundle is made at 1024."""
    latents = LatentSpec(128, 64, 64, 1.0, 0.0, 16, 1, 0)
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    sampling = Sampling(lambda n: np.linspace(1.0, 1 / n, n), shift=shift_by(compute_empirical_mu, latents, 1, (4300,)))
    table, tokens = probe(config, steps, sampling), (side // 16) ** 2
    asked = {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": compute_empirical_mu(tokens, steps)}
    stock = stock_trajectory(diffusers.FlowMatchEulerDiscreteScheduler.from_config(config), **asked)
    assert np.abs(table_trajectory(table.at(tokens)) - stock).max() <= 1e-5 * np.abs(stock).max()
    assert (table.at(tokens) is table) == (side == 1024)


def test_a_schedule_that_shifts_in_another_way_is_refused() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "shift_terminal": 0.1}
    latents = LatentSpec(128, 64, 64, 1.0, 0.0, 16, 1, 0)
    sampling = Sampling(lambda n: np.linspace(1.0, 1 / n, n), shift=shift_by(compute_empirical_mu, latents, 1, (4300,)))
    with pytest.raises(ScheduleError, match=r"does not shift by exp\(mu\)"):
        probe(config, 4, sampling)
    with pytest.raises(ScheduleError, match="shifts with the image size"):
        probe(config, 4)


def test_a_size_beyond_all_lines_is_refused() -> None:
    shift = Shift(1.0, (ShiftLine(4096, 1.0, 0.0),))
    with pytest.raises(BundleError, match="not made for such a size"):
        shift.at(5000)


@pytest.mark.parametrize("setting", ["clip_sample", "thresholding"])
def test_nonlinear_settings_are_refused_by_name(setting: str) -> None:
    config = config_of("DDIMScheduler", {**BETAS, "clip_sample": False, setting: True})
    with pytest.raises(ScheduleError, match=f"DDIMScheduler is not linear.*turn off {setting}"):
        probe(config, 4)


@pytest.mark.parametrize("name", ["LCMScheduler", "EulerDiscreteScheduler", "TCDScheduler"])
def test_every_bundle_has_tables_for_one_to_eight_steps(name: str) -> None:
    found = schedules_of(config_of(name, BETAS), (4, 25), Sampling(eta=ETA))
    assert list(found) == [4, 25, 1, 2, 3, 5, 6, 7, 8]
    for steps, table in found.items():
        stock = stock_trajectory(getattr(diffusers, name)(**BETAS), num_inference_steps=steps)
        assert np.abs(table_trajectory(table) - stock).max() <= 1e-5 * np.abs(stock).max()
    few = schedules_of(config_of("LCMScheduler", {**BETAS, "original_inference_steps": 6}), (2,), Sampling())
    assert sorted(few) == [1, 2, 3, 4, 5, 6], "a count that the scheduler lacks and nobody asked for"
    with pytest.raises(ScheduleError, match="no schedule of 7 steps"):
        schedules_of(config_of("LCMScheduler", {**BETAS, "original_inference_steps": 6}), (7,), Sampling())


def test_an_unsupported_scheduler_is_refused_by_name() -> None:
    with pytest.raises(ScheduleError, match="unknown scheduler 'PNDMScheduler'"):
        probe({"_class_name": "PNDMScheduler"}, 4)


OLD = {**BETAS, "steps_offset": 0, "timestep_spacing": "leading", "_diffusers_version": "0.6.0"}
FILES = [  # scheduler_config.json as early releases wrote it, the class and the settings of a recipe
    ({**OLD, "_class_name": "EulerDiscreteScheduler"}, "", {}),
    ({**OLD, "_class_name": "DDIMScheduler", "clip_sample": False}, "", {}),
    ({**OLD, "_class_name": "DDIMScheduler", "clip_sample": True}, "", {}),
    ({**BETAS, "_class_name": "DDIMScheduler"}, "", {}),
    ({**OLD, "_class_name": "PNDMScheduler"}, "EulerDiscreteScheduler", {}),
    ({"beta_end": 0.012, "_class_name": "PNDMScheduler"}, "EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
    ({**OLD, "_class_name": "DDIMScheduler", "clip_sample": True}, "DDIMScheduler", {"steps_offset": 0}),
    ({**OLD, "_class_name": "PNDMScheduler"}, "LCMScheduler", {"original_inference_steps": 20}),
]


@pytest.mark.parametrize("pipeline", ["StableDiffusionPipeline", "LatentConsistencyModelPipeline"])
@pytest.mark.parametrize(("file", "chosen", "changes"), FILES)
def test_old_files_sample_as_the_stock_pipeline_loads_them(
    pipeline: str,
    file: dict,
    chosen: str,
    changes: dict,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    stock = scheduler_of_the_stock_pipeline(pipeline, file, tmp_path)
    if chosen or changes:
        stock = getattr(diffusers, chosen).from_config(stock.config, **changes)
    recwarn.clear()
    config = stock_config(pipeline, file, chosen, changes)
    assert not recwarn, "what the stock pipeline says of the file is not repeated"
    if stock.config.get("clip_sample"):
        with pytest.raises(ScheduleError, match="turn off clip_sample"):
            probe(config, 4)
        return
    ours = table_trajectory(probe(config, 4, Sampling(eta=ETA)))
    theirs = stock_trajectory(stock, num_inference_steps=4)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def scheduler_of_the_stock_pipeline(pipeline: str, file: dict, folder: Path):  # type: ignore[no-untyped-def]
    """from_pretrained on a folder that holds the scheduler and nothing else."""
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(file))
    index = {"_class_name": pipeline, "scheduler": ["diffusers", file["_class_name"]]}
    (folder / "model_index.json").write_text(json.dumps(index))
    absent = dict.fromkeys(["vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor"])
    return getattr(diffusers, pipeline).from_pretrained(folder, **absent).scheduler


def test_a_setting_that_the_scheduler_lacks_is_refused_by_name() -> None:
    file = {**BETAS, "_class_name": "EulerDiscreteScheduler"}
    with pytest.raises(ScheduleError, match="'timestep_spacin': did you mean 'timestep_spacing'"):
        stock_config("StableDiffusionPipeline", file, settings={"timestep_spacin": "trailing"})
    with pytest.raises(ScheduleError, match=r"EulerDiscreteScheduler.* trailin is not supported"):
        probe({**file, "timestep_spacing": "trailin"}, 4)
    with pytest.raises(ScheduleError, match=r"EulerDiscreteScheduler.*cosine"):
        stock_config("StableDiffusionPipeline", file, settings={"beta_schedule": "cosine"})


def test_a_file_that_names_no_scheduler_of_diffusers_is_refused() -> None:
    with pytest.raises(ScheduleError, match="diffusers has no scheduler 'MyScheduler'"):
        stock_config("StableDiffusionPipeline", {"_class_name": "MyScheduler"}, "LCMScheduler")


@pytest.mark.parametrize(("name", "steps"), [("LCMScheduler", 60), ("EulerDiscreteScheduler", 1001)])
def test_more_steps_than_there_are_timesteps_are_refused(name: str, steps: int) -> None:
    with pytest.raises(ScheduleError, match=str(steps)):
        probe(config_of(name, BETAS), steps)


def table_of(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> ScheduleTable:
    n = len(a)
    return ScheduleTable(np.arange(float(n)), np.ones(n), a, b, c, np.ones(n), np.ones(n), 1.0)


@pytest.mark.parametrize(("name", "settings"), [(n, s) for n, s, _ in CASES])
def test_a_picture_enters_where_the_stock_scheduler_puts_it(name: str, settings: dict) -> None:
    scheduler = getattr(diffusers, name)(**settings)
    scheduler.set_timesteps(4)
    table = probe(config_of(name, settings), 4).folded(Coefficients.identity(4))
    x0, z = (torch.from_numpy(TorchNoise(s).randn(SHAPE)) for s in range(2))
    for i, t in enumerate(scheduler.timesteps):
        at = t.reshape(1)
        stock = (
            scheduler.scale_noise(x0, at, z) if hasattr(scheduler, "scale_noise") else scheduler.add_noise(x0, z, at)
        )
        np.testing.assert_allclose(table.noised(x0.numpy(), z.numpy(), i), stock.numpy(), rtol=1e-5, atol=1e-5)


def stock_estimate(scheduler, step, t, x: np.ndarray, e: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """What the stock scheduler says of the finished picture; LCM calls it denoised, TCD leaves it to the reader."""
    if isinstance(scheduler, diffusers.TCDScheduler):
        kept = float(scheduler.alphas_cumprod[t])
        return (x - (1 - kept) ** 0.5 * e) / kept**0.5
    return (step.denoised if hasattr(step, "denoised") else step.pred_original_sample).numpy()


@pytest.mark.parametrize(("name", "settings"), [(n, s) for n, s, _ in CASES if not n.startswith("FlowMatch")])
def test_a_step_sees_the_finished_picture_that_the_stock_scheduler_predicts(name: str, settings: dict) -> None:
    scheduler = getattr(diffusers, name)(**settings)
    scheduler.set_timesteps(4)
    table = probe(config_of(name, settings), 4, Sampling(eta=ETA)).folded(Coefficients.identity(4))
    noise, generator = TorchNoise(7), torch.Generator("cpu").manual_seed(7)
    x = noise.randn(SHAPE) * np.float32(table.table.init_noise_sigma)
    torch.randn(SHAPE, generator=generator)
    takes_eta = name in ("TCDScheduler", "DDIMScheduler")
    for i, t in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(torch.from_numpy(x), t)
        e = random_denoiser(scaled.numpy())
        extra = {"eta": ETA} if takes_eta else {}
        stock = scheduler.step(torch.from_numpy(e), t, torch.from_numpy(x), generator=generator, **extra)
        z = noise.randn(SHAPE) if table.draws_noise(i) else None
        x_next = table.step(x, e, z, i)
        if i + 1 < len(table.table):
            expected = stock_estimate(scheduler, stock, t, x, e)
            np.testing.assert_allclose(table.estimate(x, z, x_next, i), expected, atol=3e-4 * np.abs(expected).max())
        else:
            assert (table.estimate(x, z, x_next, i) == x_next).all()
        x = x_next


def test_a_flow_steps_to_the_finished_picture_along_its_velocity() -> None:
    sigmas = [1.0, 0.75, 0.5, 0.25]
    table = probe({"_class_name": "FlowMatchEulerDiscreteScheduler"}, 4, Sampling(lambda n: np.array(sigmas)))
    folded = table.folded(Coefficients.identity(4))
    x, e = (TorchNoise(s).randn(SHAPE) for s in range(2))
    for i in range(3):
        found = folded.estimate(x, None, folded.step(x, e, None, i), i)
        np.testing.assert_allclose(found, x - np.float32(sigmas[i]) * e, atol=1e-4)


columns = st.lists(st.floats(-4, 4, allow_nan=False, width=32), min_size=4, max_size=4).map(np.array)


@settings(max_examples=50, deadline=None)
@given(a=columns, b=columns, c=columns)
def test_coefficients_of_one_change_no_bit(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    table = table_of(a, b, c)
    folded = table.folded(Coefficients.identity(4))
    assert (folded.a[:, 0, 0, 0] == a.astype(np.float32)).all()
    assert (folded.b[:, 0, 0, 0] == b.astype(np.float32)).all()


@settings(max_examples=50, deadline=None)
@given(a=columns, b=columns, c=columns, k=st.floats(-3, 3, width=32))
def test_a_step_is_linear(a: np.ndarray, b: np.ndarray, c: np.ndarray, k: float) -> None:
    folded = table_of(a, b, c).folded(Coefficients.identity(4))
    x, e, z = (TorchNoise(s).randn(SHAPE) for s in range(3))
    scaled = folded.step(np.float32(k) * x, np.float32(k) * e, np.float32(k) * z, 1)
    np.testing.assert_allclose(scaled, k * folded.step(x, e, z, 1), rtol=1e-4, atol=1e-4)


def test_per_channel_coefficients_scale_each_channel() -> None:
    table = table_of(np.ones(2), np.zeros(2), np.zeros(2))
    c_x = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    x = np.ones(SHAPE, np.float32)
    step = table.folded(Coefficients(c_x, np.ones(2))).step(x, x, None, 0)
    assert step[0, :, 0, 0].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_coefficients_that_do_not_fit_are_refused() -> None:
    table = table_of(np.ones(2), np.ones(2), np.zeros(2))
    with pytest.raises(BundleError, match="4 steps do not fit a schedule of 2"):
        table.folded(Coefficients.identity(4))
    with pytest.raises(BundleError, match="finite"):
        Coefficients(np.array([1.0, np.nan]), np.ones(2))


def test_fingerprint_tells_tables_apart() -> None:
    config = config_of("LCMScheduler", BETAS)
    assert fingerprint(probe(config, 4)) == fingerprint(probe(config, 4)) != fingerprint(probe(config, 2))


SIGMAS_OF = {"FlowMatchEulerDiscreteScheduler": lambda n: np.linspace(1.0, 1 / n, n)}


@pytest.mark.parametrize(("name", "settings_", "counts"), CASES)
def test_at_the_stock_timesteps_a_table_of_ones_own_is_the_stock_table(
    name: str, settings_: dict, counts: tuple[int, ...]
) -> None:
    for eta in (0.0, ETA):
        for steps in counts:
            config, sampling = config_of(name, settings_), Sampling(eta=eta, sigmas=SIGMAS_OF.get(name))
            stock = probe(config, steps, sampling)
            own = probe_at(config, stock.timesteps, sampling)
            for column in COLUMNS:
                np.testing.assert_allclose(getattr(own, column), getattr(stock, column), rtol=1e-6, atol=1e-6)
            assert own.init_noise_sigma == pytest.approx(stock.init_noise_sigma)


def alphas_of(settings_: dict) -> np.ndarray:
    betas = np.linspace(settings_["beta_start"] ** 0.5, settings_["beta_end"] ** 0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def test_ddim_at_timesteps_of_ones_own_is_the_papers_formula() -> None:
    """Equation 12 of arXiv 2010.02502 in float64, between timesteps that no even spacing has."""
    config, alphas = config_of("DDIMScheduler", {**BETAS, "clip_sample": False}), alphas_of(BETAS)
    timesteps = [990, 612, 601, 33]
    found = probe_at(config, timesteps, Sampling(eta=ETA))
    after = [*alphas[timesteps[1:]], 1.0]
    for i, (t, goal) in enumerate(zip(timesteps, after, strict=True)):
        sigma = ETA * np.sqrt((1 - goal) / (1 - alphas[t]) * (1 - alphas[t] / goal))
        a = np.sqrt(goal / alphas[t])
        b = np.sqrt(1 - goal - sigma**2) - a * np.sqrt(1 - alphas[t])
        np.testing.assert_allclose([found.a[i], found.b[i], found.c[i]], [a, b, sigma], rtol=2e-5, atol=2e-6)


def test_ancestral_steps_at_timesteps_of_ones_own_are_k_diffusions_formula() -> None:
    config, alphas = config_of("EulerAncestralDiscreteScheduler", BETAS), alphas_of(BETAS)
    timesteps = [999, 870, 410, 100]
    found = probe_at(config, timesteps, Sampling())
    sigmas = [*np.sqrt((1 - alphas[timesteps]) / alphas[timesteps]), 0.0]
    for i in range(4):
        up = np.sqrt(sigmas[i + 1] ** 2 * (sigmas[i] ** 2 - sigmas[i + 1] ** 2) / sigmas[i] ** 2)
        down = np.sqrt(sigmas[i + 1] ** 2 - up**2)
        np.testing.assert_allclose(
            [found.a[i], found.b[i], found.c[i]], [1, down - sigmas[i], up], rtol=2e-5, atol=2e-6
        )


@pytest.mark.parametrize("timesteps", [[], [999, 999], [10, 20], [1200, 10], [500, -1], [float("nan")]])
def test_timesteps_that_do_not_fall_are_refused(timesteps: list[float]) -> None:
    with pytest.raises(ScheduleError, match="must fall"):
        probe_at(config_of("LCMScheduler", BETAS), timesteps, Sampling())
