"""The runtime: parity with the diffusers pipeline, the role of the coefficients, requests it must refuse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from qsched_runtime import BundleError, Coefficients, ProviderError, RequestError, Sampler, Step
from qsched_runtime.image import png_bytes

from qsched_edge.bundle import verify as bundle_files

PROMPTS = ["a red apple, noto style", "an ant, twemoji style, on a blue background"]


@pytest.fixture(scope="module")
def sampler(bundles: dict[int, Path]) -> Sampler:
    return Sampler.from_pretrained(bundles[4])


@pytest.mark.parametrize(("steps", "size", "seed"), [(4, (16, 16), 5), (2, (24, 16), 2**33 + 1)])
def test_32_bit_bundle_draws_what_diffusers_draws(
    miniature: Path, bundles: dict[int, Path], steps: int, size: tuple[int, int], seed: int
) -> None:
    from diffusers import LatentConsistencyModelPipeline

    pipeline = LatentConsistencyModelPipeline.from_pretrained(miniature, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    stock = pipeline(
        PROMPTS,
        num_inference_steps=steps,
        guidance_scale=1.5,
        height=size[0],
        width=size[1],
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="np",
    ).images
    ours = Sampler.from_pretrained(bundles[32])(
        PROMPTS, seed=seed, num_inference_steps=steps, guidance_scale=1.5, height=size[0], width=size[1]
    ).images
    difference = np.abs(ours / 255.0 - stock)
    assert difference.max() <= 2 / 255
    assert np.abs(ours - np.round(stock * 255)).mean() <= 0.1


def test_a_list_of_seeds_gives_each_picture_its_own_noise(sampler: Sampler) -> None:
    both = sampler(PROMPTS, seed=[3, 4]).latents
    alone = sampler(PROMPTS[1], seed=4).latents
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5 * np.abs(alone).max())


def test_coefficients_of_one_are_no_coefficients_to_the_bit(sampler: Sampler) -> None:
    table = sampler.manifest.schedules[4]
    plain = sampler(PROMPTS[0], seed=1).latents
    assert (plain == sampler(PROMPTS[0], seed=1, coefficients=Coefficients.identity(4)).latents).all()
    noise = sampler.streams(1, 1)
    conditioning = sampler.condition([PROMPTS[0]], 2.0)
    x = noise[0].randn(conditioning.shape) * np.float32(table.init_noise_sigma)
    for i in range(4):  # the formula without any coefficient column
        e = sampler.network_output(np.float32(table.c_in[i]) * x, table.timesteps[i], conditioning)
        x_next = np.float32(table.a[i]) * x + np.float32(table.b[i]) * e
        x = x_next + np.float32(table.c[i]) * noise[0].randn(x.shape) if table.c[i] else x_next
    assert (x == plain).all()


@pytest.mark.parametrize("column", ["c_x", "c_eps"])
def test_a_changed_coefficient_in_the_bundle_changes_the_picture(
    bundles: dict[int, Path], tmp_path: Path, column: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundles[4], folder)
    before = Sampler.from_pretrained(folder)(PROMPTS[0]).images
    raw = json.loads((folder / "qsched.json").read_text())
    raw["schedules"]["4"][column][2] = 1.05
    (folder / "qsched.json").write_text(json.dumps(raw))
    assert (Sampler.from_pretrained(folder)(PROMPTS[0]).images != before).any()
    with pytest.raises(BundleError, match="folded table"):
        bundle_files.verify(folder)


def test_callback_sees_every_step_and_the_update_formula(sampler: Sampler) -> None:
    steps: list[Step] = []
    result = sampler(PROMPTS[0], seed=9, callback_on_step_end=steps.append)
    table = sampler.manifest.schedules[4]
    assert [s.i for s in steps] == [0, 1, 2, 3]
    assert (steps[-1].x_next == result.latents).all()
    for s in steps:
        expected = table.a[s.i] * s.x.astype(np.float64) + table.b[s.i] * s.e
        expected += 0 if s.z is None else table.c[s.i] * s.z
        np.testing.assert_allclose(s.x_next, expected, atol=1e-5)


def test_memory_modes_agree(bundles: dict[int, Path], sampler: Sampler) -> None:
    fast = Sampler.from_pretrained(bundles[4], memory="fast")
    np.testing.assert_allclose(fast(PROMPTS).latents, sampler(PROMPTS).latents, atol=1e-3)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"num_inference_steps": 3}, "no schedule for 3 steps: this bundle has 2, 4"),
        ({"height": 15}, "height 15 does not fit this model: use a multiple of 4"),
        ({"width": -4}, "width -4"),
        ({"seed": [1, 2, 3]}, "3 seeds for 1 prompts"),
        ({"negative_prompt": "blur"}, "negative_prompt 'blur' has no effect"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, r"image is float32 \[1, 8, 8, 3\]: give uint8"),
        ({"image": np.zeros((8, 8, 4), np.uint8)}, r"image is uint8 \[1, 8, 8, 4\]"),
        ({"image": np.zeros((8, 8), np.uint8)}, r"image is uint8 \[8, 8\]"),
        ({"image": np.zeros((2, 8, 8, 3), np.uint8)}, r"or \[1, H, W, 3\]"),
        ({"image": np.zeros((8, 8, 3), np.uint8), "height": 16}, "height 16 and width None beside an image"),
    ],
)
def test_impossible_requests_are_refused(sampler: Sampler, request_: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        sampler(PROMPTS[0], **request_)


def test_a_missing_provider_is_an_error_and_no_fallback(bundles: dict[int, Path]) -> None:
    with pytest.raises(ProviderError, match=r"NoSuchProvider is not in this onnxruntime \(it has"):
        Sampler.from_pretrained(bundles[4], providers=["NoSuchProvider"])
    with pytest.raises(ProviderError, match="memory mode 'big'"):
        Sampler.from_pretrained(bundles[4], memory="big")


def test_png_is_read_back_by_pillow(tmp_path: Path) -> None:
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, size=(9, 13, 3), dtype=np.uint8)
    path = tmp_path / "p.png"
    path.write_bytes(png_bytes(picture))
    with Image.open(path) as image:
        assert (np.asarray(image) == picture).all()
