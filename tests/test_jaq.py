"""The JAQ formula and its terms: laws, gradients against finite differences, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from qsched_edge.errors import MetricError
from qsched_edge.jaq.clip import ClipModel, clip_model
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.loss import Loss, Scores, weights_of
from qsched_edge.jaq.metrics import metric
from qsched_edge.jaq.reference import nearness
from qsched_edge.jaq.settings import TermSettings
from qsched_edge.jaq.terms import QUALITY, Seen

JAQ = weights_of("jaq", 2.0)
PAIR = ("a clean drawing of {prompt}", "a corrupted drawing of {prompt}")
LATENTS = np.zeros((2, 4, 8, 8), np.float32)
LAST = torch.from_numpy(LATENTS)
PROMPTS = ("a red apple, noto style", "a cat face, fluent style")


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(TermSettings(str(ROOT / "models/emoji-scorer"), quality_prompts=PAIR))


def random_scores(seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores({"text_image": rng.normal(0.3, 0.1, 20), "quality": rng.uniform(0.2, 0.9, 20)})


@given(st.integers(0, 99), st.floats(0, 5))
def test_identity_scores_zero_and_weights_are_in_its_spread(seed: int, k: float) -> None:
    identity = random_scores(seed)
    jaq = Loss.against(identity, weights_of("jaq", k))
    assert abs(jaq.of(identity).mean()) < 1e-9
    shifted = Scores({name: values + values.std() for name, values in identity.values.items()})
    np.testing.assert_allclose(jaq.of(shifted) - jaq.of(identity), 1 + k, rtol=1e-9)


@given(st.floats(0.1, 1000), st.floats(-5, 5))
def test_jaq_does_not_depend_on_a_terms_unit(scale: float, offset: float) -> None:
    a, b = random_scores(0), random_scores(1)
    in_other_unit = [Scores({**s.values, "text_image": s["text_image"] * scale + offset}) for s in (a, b)]
    expected = Loss.against(a, JAQ).of(b)
    np.testing.assert_allclose(Loss.against(in_other_unit[0], JAQ).of(in_other_unit[1]), expected, rtol=1e-6, atol=1e-6)


def test_constant_or_broken_terms_are_refused() -> None:
    with pytest.raises(MetricError, match="cannot be normalised"):
        Loss.against(Scores({"text_image": np.ones(4), "quality": np.arange(4.0)}), JAQ)
    with pytest.raises(MetricError, match="cannot be normalised"):
        Loss.against(Scores({"text_image": np.array([1.0, np.nan]), "quality": np.arange(2.0)}), JAQ)


def test_scores_equal_open_clips_own_arithmetic(judge: Judge) -> None:
    """The cosine and the two-way softmax, written out with open_clip's encoders."""
    images = np.random.default_rng(0).uniform(-1, 1, size=(2, 3, 64, 64)).astype(np.float32)
    found = judge.scores(images, PROMPTS, LATENTS)
    clip = clip_model(ROOT / "models/emoji-scorer")
    model, tokenize = clip.model, clip.tokenize
    with torch.no_grad():
        image = model.encode_image(torch.from_numpy(images), normalize=True)
        encode = lambda texts: model.encode_text(torch.tensor([tokenize(t) for t in texts]), normalize=True)  # noqa: E731
        cosine = (image * encode(PROMPTS)).sum(1)
        pair = [(image * encode([d.format(prompt=p) for p in PROMPTS])).sum(1) for d in PAIR]
        share = (torch.stack(pair, 1) * model.logit_scale.exp()).softmax(1)[:, 0]
    np.testing.assert_allclose(found["text_image"], cosine, atol=1e-5)
    np.testing.assert_allclose(found["quality"], share, atol=1e-4)


def test_gradient_agrees_with_finite_differences(judge: Judge) -> None:
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.uniform(0.2, 0.8, size=(1, 3, 64, 64)).astype(np.float32)).requires_grad_()
    direction = torch.from_numpy(rng.normal(size=(1, 3, 64, 64)).astype(np.float32))
    jaq = Loss(JAQ, dict.fromkeys(JAQ, 0.0), {"text_image": 0.1, "quality": 0.2})

    def value(x: torch.Tensor) -> torch.Tensor:
        return jaq(judge.terms(Seen(x, PROMPTS[:1], LAST[:1]))).sum()

    (gradient,) = torch.autograd.grad(value(image), image)
    h = 1e-2
    with torch.no_grad():
        slope = (value(image + h * direction) - value(image - h * direction)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=0.05)


def test_a_missing_scorer_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"no open_clip_config\.json"):
        ClipModel.of_folder(tmp_path)


def test_metrics_are_named_and_their_missing_weights_say_what_to_fetch(tmp_path: Path) -> None:
    scorer = str(ROOT / "models/emoji-scorer")
    with pytest.raises(MetricError, match="unknown metric 'clop': did you mean 'clip'"):
        Judge(TermSettings(scorer, text_image="clop"))
    with pytest.raises(MetricError, match=r"hf download xswu/HPSv2 HPS_v2\.1_compressed\.pt"):
        Judge(TermSettings(scorer, text_image="hps", hps=str(tmp_path / "none.pt")))


def test_hps_is_open_clips_vit_h_14_with_the_checkpoint_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plumbing, with a small architecture in the place of the 1 B one and a checkpoint of its random weights."""
    import open_clip
    from safetensors.torch import save_file

    from qsched_edge.jaq import hps

    torch.manual_seed(0)
    monkeypatch.setattr(hps, "ARCHITECTURE", "ViT-S-32-alt")
    model = open_clip.create_model("ViT-S-32-alt", pretrained=None).eval()
    save_file(model.state_dict(), tmp_path / "hps.safetensors")
    term = hps.hps(TermSettings(hps=str(tmp_path / "hps.safetensors")), "cpu")
    images = torch.rand(2, 3, 224, 224)
    mean, std = (
        torch.tensor(v).reshape(1, 3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.no_grad():
        image = model.encode_image((images - mean) / std, normalize=True)
        text = model.encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(list(PROMPTS)), normalize=True)
        np.testing.assert_allclose(term(Seen(images, PROMPTS, LAST)), (image * text).sum(1), atol=1e-5)


@pytest.mark.slow
def test_pyiqas_metrics_give_one_number_for_each_picture() -> None:
    pytest.importorskip("pyiqa")
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    values = {}
    for name in ("piqe", "entropy"):
        settings = TermSettings(quality=f"pyiqa:{name}")
        term = metric(QUALITY, settings.quality, settings, "cpu")
        values[name] = term(Seen(images, (*PROMPTS, "a dog"), LAST))
        assert values[name].shape == (3,)
        alone = torch.cat([term(Seen(image[None], PROMPTS[:1], LAST)) for image in images])
        np.testing.assert_allclose(values[name].detach(), alone.detach(), rtol=1e-5)
        assert term.low <= values[name].min() <= values[name].max() <= term.high
    grays = (images * 255).mul(torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1)
    for gray, value in zip(grays, values["entropy"], strict=True):
        counts = np.histogram(gray.round(), bins=256, range=(0, 256))[0] / gray.numel()
        assert float(value) == pytest.approx(-np.sum(counts * np.log2(counts, where=counts > 0)), abs=0.1)
    with pytest.raises(MetricError, match="without a reference picture"):
        metric(QUALITY, "pyiqa:psnr", TermSettings(quality="pyiqa:psnr"), "cpu")


def test_losses_weigh_the_terms_they_name() -> None:
    a, b = random_scores(0), random_scores(1)
    for loss, column in (("text-image", "text_image"), ("quality", "quality")):
        before, after = a[column], b[column]
        expected = (after - before.mean()) / before.std()
        np.testing.assert_allclose(Loss.against(a, weights_of(loss, 2.0)).of(b), expected)
    with pytest.raises(MetricError, match="give --reference"):
        Loss.against(a, weights_of("reference", 2.0))


def test_the_reference_term_is_minus_the_mean_squared_distance() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 5))
    expected = [-np.mean((a - b) ** 2) for a, b in zip(x, y, strict=True)]
    for gradient in (False, True):
        latents = torch.from_numpy(x).requires_grad_(gradient)
        found = nearness(Seen(torch.zeros(0), (), latents, torch.from_numpy(y)))
        np.testing.assert_allclose(found.detach(), expected)
