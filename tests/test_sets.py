"""Judges of sets of pictures, of texture, of true pictures and of libraries: against loops, on networks made here."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qsched_edge.checkpoint.recipes import Recipe
from qsched_edge.errors import MetricError
from qsched_edge.jaq.features import encoder_of, features, shallow
from qsched_edge.jaq.frechet import Frechet, Gaussian
from qsched_edge.jaq.judges import Drawn, Reading
from qsched_edge.jaq.mmd import MmdDistance
from qsched_edge.jaq.nearness import truth
from qsched_edge.jaq.panel import panel_of
from qsched_edge.jaq.references import References
from qsched_edge.jaq.settings import JudgeSource
from qsched_edge.jaq.texture import texture

RNG = np.random.default_rng(0)
READING = Reading("a distance", "d", False)
PLAIN = Recipe("plain", "Plain", "nowhere", "CC0-1.0", (4,), 0.0)


def kernel(x: np.ndarray, y: np.ndarray, scale: float) -> float:
    return float((x @ y / scale + 1) ** 3)


def test_mmd_to_references_is_the_unbiased_estimate_over_different_prompts() -> None:
    """Pair by pair, on resamples that hold a prompt twice."""
    x, y = RNG.normal(size=(4, 2, 5)), RNG.normal(0.5, 1.0, size=(6, 5))
    rows = np.array([[0, 1, 2, 3], [1, 1, 3, 0], [2, 2, 2, 2]])
    found = MmdDistance(READING, y).resampled(x, None, rows)
    scale = np.mean([a @ a for a in y])
    own = np.mean([kernel(y[i], y[j], scale) for i in range(6) for j in range(6) if i != j])
    for row, value in zip(rows[:2], found[:2], strict=True):
        pairs = [kernel(a, b, scale) for p in row for q in row if p != q for a in x[p] for b in x[q]]
        cross = [kernel(a, b, scale) for p in row for a in x[p] for b in y]
        assert value == pytest.approx(np.mean(pairs) + own - 2 * np.mean(cross))
    assert np.isfinite(found).all()  # one prompt alone has no pair


def test_mmd_of_pictures_of_one_noise_is_zero_on_average_where_the_networks_are_alike() -> None:
    values = []
    for _ in range(300):
        base = RNG.normal(size=(12, 1, 4))
        x, y = base + 0.3 * RNG.normal(size=(2, 12, 1, 4))
        values.append(MmdDistance(READING).resampled(x, y, np.arange(12)[None])[0])
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
    same = MmdDistance(READING).resampled(x, x, np.arange(12)[None])
    assert same == pytest.approx(0.0, abs=1e-12)
    assert MmdDistance(READING).resampled(x + 2, x, np.arange(12)[None])[0] > 1


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DINOv2, as transformers saves it, with its preprocessor's settings."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    folder = tmp_path_factory.mktemp("dino") / "dino-tiny"
    Dinov2Model(config).save_pretrained(folder)
    settings = {"crop_size": {"height": 28, "width": 28}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve reference pictures with captions, two of each."""
    folder = tmp_path_factory.mktemp("references")
    lines = []
    for i in range(12):
        Image.fromarray(RNG.integers(0, 256, size=(28, 28, 3), dtype=np.uint8)).save(folder / f"{i:02}.png")
        lines.append(json.dumps({"file_name": f"{i:02}.png", "text": f"a thing, number {i // 2}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_features_are_the_networks_own_of_its_own_pixels(dino: Path) -> None:
    from transformers import Dinov2Model

    images = RNG.random((3, 3, 28, 28)).astype(np.float32)
    judge = features(JudgeSource(str(dino)))
    found = judge.look(Drawn(images, ("x",) * 3)).features
    mean, std = (np.float32(v).reshape(1, 3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(dino)(torch.from_numpy((images - mean) / std)).pooler_output
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert set(judge.distances) == {"frechet dino-tiny", "mmd dino-tiny"}
    assert all(d.needs_beside for d in judge.distances.values())
    assert judge.files == {str((dino / "model.safetensors").resolve())}
    larger = judge.look(Drawn(RNG.random((2, 3, 64, 64)).astype(np.float32), ("x",) * 2)).features
    assert larger is not None
    assert larger.shape == (2, 16)


def test_reference_pictures_take_full_precisions_place(dino: Path, pictures: Path) -> None:
    judge = features(JudgeSource(str(dino), references=str(pictures)))
    real = np.stack([np.asarray(Image.open(f)) for f in sorted(pictures.glob("*.png"))])
    images = real.transpose(0, 3, 1, 2).astype(np.float32) / 255
    seen = judge.look(Drawn(images, ("x",) * 12)).features
    assert seen is not None
    other = judge.of(RNG.random((8, 3, 28, 28)).astype(np.float32))
    distance = judge.distances["frechet dino-tiny"]
    assert not distance.needs_beside
    found = distance.resampled(other[:, None], None, np.arange(8)[None])
    assert found[0] == pytest.approx(Frechet(Gaussian.of(seen))(other), rel=1e-6)
    assert distance.resampled(seen[:, None], None, np.arange(12)[None])[0] == pytest.approx(0, abs=1e-5)


def test_shallow_features_are_statistics_of_the_first_stage(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(config).save_pretrained(tmp_path / "stage")
    images = RNG.random((2, 3, 32, 32)).astype(np.float32)
    found = shallow(JudgeSource(str(tmp_path / "stage"))).look(Drawn(images, ("x",) * 2)).features
    mean, std = (np.float32(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    model = ResNetModel.from_pretrained(tmp_path / "stage").eval()
    with torch.no_grad():
        first = model(torch.from_numpy((images - mean) / std), output_hidden_states=True).hidden_states[1]
    expected = torch.cat([first.mean((2, 3)), first.std((2, 3))], 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_networks_that_are_not_at_hand_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    panel = panel_of(("paired", "features", "features:inception", "shallow", "truth"), PLAIN, JudgeSource())
    assert list(panel.judges) == ["paired"]
    first, second, third, last = panel.left_out
    assert "hf download facebook/dinov2-small" in first
    assert "inception_v3_google" in second
    assert "shallow:FOLDER" in third
    assert "give --references FOLDER" in last
    assert not any("\n" in line for line in panel.left_out)


def test_texture_sees_blur_and_noise_but_not_what_is_shown() -> None:
    sharp = RNG.random((8, 3, 32, 32)).astype(np.float32)
    padded = np.pad(sharp, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    blurred = np.mean([padded[..., i : i + 32, j : j + 32] for i in range(3) for j in range(3)], axis=0)
    judge = texture(JudgeSource())
    looks = {n: judge.look(Drawn(x, ("x",) * 8)).features for n, x in {"sharp": sharp, "blurred": blurred}.items()}
    other = judge.look(Drawn(RNG.random((8, 3, 32, 32)).astype(np.float32), ("x",) * 8)).features
    rows = np.arange(8)[None]

    def distance(name: str, features: np.ndarray | None) -> float:
        assert features is not None
        assert looks["sharp"] is not None
        return float(judge.distances[name].resampled(features[:, None], looks["sharp"][:, None], rows)[0])

    for name in ("patches", "detail"):
        assert distance(name, looks["sharp"]) == 0
        assert distance(name, looks["blurred"]) > 5 * distance(name, other)
    x = blurred.astype(float)
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    y = sharp.astype(float)
    near = y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + y[..., 1:-1, :-2] + y[..., 1:-1, 2:]
    share = np.abs(4 * x[..., 1:-1, 1:-1] - around).mean() / np.abs(4 * y[..., 1:-1, 1:-1] - near).mean()
    assert distance("detail", looks["blurred"]) == pytest.approx(1 - share, rel=1e-5)


def test_patches_are_compared_by_their_sorted_values(pictures: Path) -> None:
    """One direction at a time: the mean difference of equally many sorted values is the Wasserstein distance."""
    from scipy.stats import wasserstein_distance

    a, b = (RNG.random((6, 3, 16, 16)).astype(np.float32) ** p for p in (1, 2))
    judge = texture(JudgeSource())
    first, second = (judge.look(Drawn(x, ("x",) * 6)).features for x in (a, b))
    assert first is not None
    assert second is not None
    found = judge.distances["patches"].resampled(first[:, None], second[:, None], np.arange(6)[None])[0]
    each = [
        wasserstein_distance(*(f[:, 1 + 64 * k : 1 + 64 * (k + 1)].ravel() for f in (first, second))) for k in range(32)
    ]
    assert found == pytest.approx(np.mean(each), rel=0.02)
    real = texture(JudgeSource(references=str(pictures)))
    images = References.of_folder(pictures).square(28)
    look = real.look(Drawn(images, ("x",) * 12)).features
    assert look is not None
    assert not real.distances["patches"].needs_beside
    assert real.distances["patches"].resampled(look[:, None], None, np.arange(12)[None])[0] == 0


def test_nearness_to_the_true_picture_is_to_the_nearest_of_its_caption(pictures: Path, dino: Path) -> None:
    images = References.of_folder(pictures).square(28)
    prompts = tuple(f"a thing, number {i}" for i in range(6))
    drawn = Drawn(np.clip(images[::2] + 0.1, 0, 1), prompts)
    judge = truth(JudgeSource(str(dino), references=str(pictures)))
    judge.check(prompts)
    look = judge.look(drawn)
    expected = [
        min(((images[2 * i + j] - drawn.images[i]) ** 2).mean() for j in range(2)) for i in range(6)
    ]  # two pictures have each caption
    np.testing.assert_allclose(look.values["true_error"], expected, rtol=1e-5)
    encode, _ = encoder_of(dino, "cpu")
    with torch.no_grad():
        mine, true = (encode(torch.from_numpy(x)) for x in (drawn.images, images))
    cosine = torch.nn.functional.cosine_similarity(mine[:, None], true[None], dim=2).numpy()
    likeness = [cosine[i, [2 * i, 2 * i + 1]].max() for i in range(6)]
    np.testing.assert_allclose(look.values["true_likeness"], likeness, rtol=1e-4)
    with pytest.raises(MetricError, match="has the caption 'a dog'"):
        judge.check(("a dog", *prompts))


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match="holds 0 reference pictures"):
        References.of_folder(tmp_path)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    with pytest.raises(MetricError, match="is no list of captions"):
        References.of_folder(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(MetricError, match="cannot be read as a picture"):
        References.of_folder(tmp_path).square(8)


@pytest.mark.slow
def test_metrics_of_pyiqa_are_judges_with_their_own_direction() -> None:
    pyiqa = pytest.importorskip("pyiqa")
    a, b = RNG.random((2, 3, 3, 64, 64)).astype(np.float32)
    drawn = Drawn(a, ("x",) * 3, beside=Drawn(b, ("x",) * 3))
    panel = panel_of(("pyiqa:piqe", "pyiqa:psnr", "lpips", "pyiqa:clop"), PLAIN, JudgeSource())
    looks = panel.look(drawn)
    assert not panel.readings["pyiqa:piqe"].more_is_better
    assert panel.readings["pyiqa:psnr"].more_is_better
    errors = ((a - b) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(looks["pyiqa:psnr"].values["pyiqa:psnr"], -10 * np.log10(errors), atol=0.05)
    with torch.no_grad():
        expected = pyiqa.create_metric("piqe")(torch.from_numpy(a)).reshape(3)
    np.testing.assert_allclose(looks["pyiqa:piqe"].values["pyiqa:piqe"], expected, rtol=1e-4)
    assert panel.judges["pyiqa:psnr"].look(replace(drawn, beside=None)).values == {}
    lines = "\n".join(panel.left_out)
    assert "lpips: left out (pyiqa's lpips cannot be set up offline" in lines
    assert "pyiqa has no metric 'clop'" in lines
