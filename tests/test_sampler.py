"""The runtime: parity with the diffusers pipeline, the role of the coefficients, requests it must refuse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from qsched_runtime import BundleError, Coefficients, ProviderError, RequestError, Sampler, Step
from qsched_runtime.image import png_bytes
from qsched_runtime.memory import OneAtATime

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


def test_several_pictures_of_a_prompt_are_those_of_diffusers(miniature: Path, bundles: dict[int, Path]) -> None:
    from diffusers import LatentConsistencyModelPipeline

    pipeline = LatentConsistencyModelPipeline.from_pretrained(miniature, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 2, "guidance_scale": 1.5, "num_images_per_prompt": 2}
    generator = torch.Generator("cpu").manual_seed(5)
    stock = pipeline(PROMPTS, height=16, width=16, generator=generator, output_type="np", **asked).images
    with Sampler.from_pretrained(bundles[32]) as sampler:
        ours = sampler(PROMPTS, seed=5, **asked).images
    assert len(ours) == 4
    assert np.abs(ours / 255.0 - stock).max() <= 2 / 255


def test_a_drawn_seed_is_reported_and_draws_the_same_again(sampler: Sampler) -> None:
    first, second = (sampler(PROMPTS[0], seed=None) for _ in range(2))
    assert isinstance(first.seed, int)
    assert first.seed != second.seed
    assert (sampler(PROMPTS[0], seed=first.seed).latents == first.latents).all()
    assert sampler(PROMPTS, seed=[3, 4]).seed == (3, 4)


def test_a_callback_stops_by_returning_true_and_only_then(sampler: Sampler) -> None:
    whole = sampler(PROMPTS[0], seed=9)
    seen: list[Step] = []
    early = sampler(PROMPTS[0], seed=9, callback_on_step_end=lambda step: seen.append(step) or step.i == 1)
    assert [s.i for s in seen] == [0, 1]
    assert (early.stopped, whole.stopped) == (True, False)
    assert (early.latents == seen[-1].x_next).all()
    assert (early.images == sampler.preview(seen[-1])).all()
    seen.clear()
    truthy = sampler(PROMPTS[0], seed=9, callback_on_step_end=lambda step: seen.append(step) or {"latents": 1})
    assert (truthy.latents == whole.latents).all()
    assert (sampler.preview(seen[-1]) == whole.images).all()


def test_a_preview_is_the_picture_that_the_step_leads_to(sampler: Sampler) -> None:
    """LCM's first step makes a picture and adds noise: without the noise, scaled back, it is the preview."""
    steps: list[Step] = []
    sampler(PROMPTS[0], seed=9, callback_on_step_end=steps.append)
    table, step = sampler.manifest.schedules[4], steps[0]
    denoised = (step.x_next - np.float32(table.c[0]) * step.z) / np.float32(table.start_x0[1])
    np.testing.assert_allclose(step.estimate, denoised, atol=1e-3 * np.abs(denoised).max())
    assert sampler.preview(step).shape == (1, 16, 16, 3)


def test_a_closed_sampler_says_so(bundles: dict[int, Path]) -> None:
    with Sampler.from_pretrained(bundles[4], device="cpu") as sampler:
        sampler(PROMPTS[0])
    with pytest.raises(RequestError, match="this sampler is closed"):
        sampler(PROMPTS[0])


def test_prompts_that_do_not_fit_are_told_by_their_tokens(sampler: Sampler) -> None:
    assert sampler.left_out("a red apple") == {"tokenizer": 0}
    room = sampler.manifest.tokenizers["tokenizer"].length - 2
    words = " ".join(["apple"] * (room + 5))
    (one,) = sampler.left_out("apple " * room).values()
    (more,) = sampler.left_out(words).values()
    assert more - one == 5 * len(sampler.tokenizers["tokenizer"]._all_ids("apple"))  # type: ignore[attr-defined]


def test_memory_modes_agree(bundles: dict[int, Path], sampler: Sampler) -> None:
    low, fast, one = (Sampler.from_pretrained(bundles[4], memory=name) for name in ("low", "fast", "sequential"))
    np.testing.assert_allclose(fast(PROMPTS).latents, low(PROMPTS).latents, atol=1e-3)
    assert (one(PROMPTS).latents == low(PROMPTS).latents).all()
    assert isinstance(one.graphs, OneAtATime)
    assert (sampler(PROMPTS).latents == fast(PROMPTS).latents).all()  # "auto" unpacks what is as small as this


def test_a_picture_in_tiles_is_nearly_the_picture(bundles: dict[int, Path], sampler: Sampler) -> None:
    tiled = Sampler.from_pretrained(bundles[4], decoder_tile=16)
    small, large = (s(PROMPTS[0], height=16, width=16).images for s in (tiled, sampler))
    assert (small == large).all()  # one tile holds it
    latents = sampler(PROMPTS[0], height=32, width=48).latents
    found, whole = tiled.decode(latents), sampler.decode(latents)
    assert found.shape == whole.shape
    corner = sampler.decode(latents[:, :, :8, :8])[:, :, :12, :12]  # a tile, less the quarter that it shares
    assert (found[:, :, :12, :12] == corner).all()
    for pixels, message in ((15, "decoder_tile 15 is out of range: use 16"), (17, "use a multiple of 2")):
        with pytest.raises(RequestError, match=message):
            Sampler.from_pretrained(bundles[4], decoder_tile=pixels)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"num_inference_steps": 9}, "no schedule for 9 steps: this bundle has 1, 2, 3, 4, 5, 6, 7, 8"),
        ({"height": 15}, "height 15 does not fit this model: use a multiple of 4"),
        ({"width": -4}, "width -4"),
        ({"seed": [1, 2, 3]}, "3 seeds for 1 prompts"),
        ({"negative_prompt": "blur"}, "negative_prompt 'blur' has no effect"),
        ({"image": np.zeros((8, 8, 3), np.float32)}, r"image is float32 \[1, 8, 8, 3\]: give uint8"),
        ({"image": np.zeros((8, 8, 4), np.uint8)}, r"image is uint8 \[1, 8, 8, 4\]"),
        ({"image": np.zeros((8, 8), np.uint8)}, r"image is uint8 \[8, 8\]"),
        ({"image": np.zeros((2, 8, 8, 3), np.uint8)}, r"or \[1, H, W, 3\]"),
        ({"image": np.zeros((8, 8, 3), np.uint8), "height": 16}, "height 16 and width None beside an image"),
        ({"image": np.zeros((16, 16, 3), np.uint8)}, "no VAE encoder; export it with --encoder"),
        ({"image": [[1], [1, 2]]}, "image is a list"),
        ({"prompt": None}, "prompt is None: give a text"),
        ({"prompt": []}, "0 texts as prompt"),
        ({"prompt": b"x"}, r"prompt is b'x': give a text"),
        ({"prompt": ["x", 3]}, "prompt holds 3: give text"),
        ({"prompt": "half \ud83d"}, "half of a surrogate pair"),
        ({"prompt": "x" * 10_001}, "prompt has 10001 characters"),
        ({"prompt": ["x"] * 257}, "257 texts as prompt"),
        ({"negative_prompt": 3}, "negative_prompt is 3"),
        ({"seed": "7"}, "seed is '7': give a whole number"),
        ({"seed": 1.5}, "seed is 1.5: give a whole number"),
        ({"seed": True}, "seed is True"),
        ({"seed": 2**64}, "seed 18446744073709551616 is out of range"),
        ({"seed": 10**10_000}, "seed a number of 33220 bits is out of range"),
        ({"num_inference_steps": "4"}, "num_inference_steps is '4'"),
        ({"num_inference_steps": 4.0}, "num_inference_steps is 4.0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt 0 is out of range"),
        ({"guidance_scale": float("nan")}, "guidance_scale nan is out of range"),
        ({"guidance_scale": 1e30}, r"guidance_scale 1e\+30 is out of range: use 0 to 1000"),
        ({"guidance_scale": "2"}, "guidance_scale is '2'"),
        ({"height": 2**31}, "height 2147483648 is out of range"),
        ({"height": 16.0}, "height is 16.0"),
        ({"height": 2**14, "width": 2**14}, "1 pictures of 16384 x 16384 pixels are too many"),
        ({"callback_on_step_end": 3}, "callback_on_step_end is 3: give a function"),
        ({"coefficients": [1.0]}, "coefficients is a list: give Coefficients"),
    ],
)
def test_impossible_requests_are_refused(sampler: Sampler, request_: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        sampler(**{"prompt": PROMPTS[0], **request_})
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_a_missing_provider_is_an_error_and_no_fallback(bundles: dict[int, Path]) -> None:
    with pytest.raises(ProviderError, match=r"NoSuchProvider is not in this onnxruntime \(it has"):
        Sampler.from_pretrained(bundles[4], providers=["NoSuchProvider"])
    with pytest.raises(ProviderError, match="memory mode 'big'"):
        Sampler.from_pretrained(bundles[4], memory="big")


def test_pictures_are_saved_and_handed_to_pillow(sampler: Sampler, tmp_path: Path) -> None:
    from PIL import Image

    output = sampler(PROMPTS, seed=1)
    assert [np.asarray(image).tolist() for image in output.pil()] == output.images.tolist()
    for suffix in (".png", ".jpg", ".webp"):
        names = output.save(tmp_path / f"p{suffix}")
        assert names == [tmp_path / f"p-0{suffix}", tmp_path / f"p-1{suffix}"]
        with Image.open(names[1]) as image:
            read = np.asarray(image).astype(int)
        assert read.shape == output.images[1].shape
        assert abs(read.mean() - output.images[1].mean()) < 8, suffix  # a picture of noise loses its colours
        assert suffix != ".png" or (read == output.images[1]).all()
    for name, message in (
        ("p", "no suffix: name a picture, such as p.png"),
        ("p.xyz", r"cannot be written as '\.xyz'"),
    ):
        with pytest.raises(RequestError, match=message):
            output.save(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 6


def test_without_pillow_png_is_written_and_the_rest_is_told(
    sampler: Sampler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = sampler(PROMPTS[0])
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    assert output.save(tmp_path / "p.png") == [tmp_path / "p.png"]
    for call in (output.pil, lambda: output.save(tmp_path / "p.jpg")):
        with pytest.raises(RequestError, match="Pillow is not installed: pip install pillow, or write PNG"):
            call()


def test_png_is_read_back_by_pillow(tmp_path: Path) -> None:
    from PIL import Image

    picture = np.random.default_rng(0).integers(0, 256, size=(9, 13, 3), dtype=np.uint8)
    path = tmp_path / "p.png"
    path.write_bytes(png_bytes(picture))
    with Image.open(path) as image:
        assert (np.asarray(image) == picture).all()
