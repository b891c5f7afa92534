"""Judges of pictures: their numbers against independent arithmetic, what is at hand, roles that share nothing."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

from qsched_edge.checkpoint.recipes import Recipe, read_recipe, recipe_names
from qsched_edge.errors import MetricError
from qsched_edge.intervals import paired_difference
from qsched_edge.jaq.encoders import FitEncoders
from qsched_edge.jaq.judges import JUDGES, ROLES, Drawn, Look
from qsched_edge.jaq.paired import paired
from qsched_edge.jaq.panel import check_apart, names_of, panel_of, together
from qsched_edge.jaq.scored import term_files
from qsched_edge.jaq.settings import JudgeSource, TermSettings
from qsched_edge.lookup import lookup

PLAIN = Recipe("plain", "nowhere", steps=(4,), guidance=0.0, folder=ROOT)
RNG = np.random.default_rng(0)
IMAGES, OTHERS = RNG.random((2, 4, 3, 24, 20)).astype(np.float32)
LATENTS, TARGETS = RNG.normal(size=(2, 4, 4, 3, 3)).astype(np.float32)
PROMPTS = ("a red apple, noto style",) * 4
DRAWN = Drawn(IMAGES, PROMPTS, LATENTS, Drawn(OTHERS, PROMPTS, TARGETS))


def test_paired_measures_are_those_of_the_literature() -> None:
    """PSNR and the latents' error written out; SSIM window by window with the published Gaussian weights."""
    found = paired(JudgeSource()).look(DRAWN).values
    a, b = (np.round(x.astype(float) * 255) / 255 for x in (IMAGES, OTHERS))
    np.testing.assert_allclose(
        found["psnr"], [10 * np.log10(1 / np.mean((x - y) ** 2)) for x, y in zip(a, b, strict=True)]
    )
    np.testing.assert_allclose(found["latent_error"], ((LATENTS - TARGETS) ** 2).mean(axis=(1, 2, 3)), rtol=1e-6)
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    expected = []
    for x, y in zip(a[0], b[0], strict=True):
        for i in range(24 - 10):
            for j in range(20 - 10):
                p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                cov = (weights * (p - mp) * (q - mq)).sum()
                expected.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    assert found["ssim"][0] == pytest.approx(np.mean(expected))


def test_equal_pictures_have_finite_values_at_the_end_of_each_range() -> None:
    found = paired(JudgeSource()).look(replace(DRAWN, beside=replace(DRAWN, beside=None))).values
    np.testing.assert_allclose(found["psnr"], 10 * np.log10(12 * 255**2))  # the error of rounding to 8 bits
    np.testing.assert_allclose(found["ssim"], 1.0)
    assert (found["latent_error"] == 0).all()
    assert paired(JudgeSource()).look(replace(DRAWN, beside=None)).values == {}


def test_a_judge_that_is_not_at_hand_is_left_out_with_one_line() -> None:
    panel = panel_of(("paired", "concepts:nowhere", "paired"), PLAIN, JudgeSource())
    assert list(panel.judges) == ["paired"]
    (line,) = panel.left_out
    assert line.startswith("concepts:nowhere: left out (")
    assert "config.json" in line
    assert "\n" not in line
    (line,) = panel_of(("concepts:models/emoji-evaluator",), PLAIN, JudgeSource(), ["a treatise"]).left_out
    assert "names none of the evaluator's" in line
    with pytest.raises(MetricError, match="unknown judge 'pared': did you mean 'paired'"):
        panel_of(("pared",), PLAIN, JudgeSource())


def test_a_panel_samples_all_measures_on_the_same_prompts() -> None:
    """Against the paired interval of each measure by itself, and the Fréchet distance by its own class."""
    panel = panel_of(("paired", "concepts:models/emoji-evaluator"), PLAIN, JudgeSource())
    assert panel.left_out == ()
    rng = np.random.default_rng(1)
    looks = []
    for shift in (0.0, 0.3):
        drawn = [
            Drawn(np.clip(IMAGES + shift * rng.random(IMAGES.shape), 0, 1).astype(np.float32), PROMPTS, LATENTS, DRAWN)
            for _ in range(2)
        ]
        looks.append(together([panel.look(d) for d in drawn]))
    before, after = (panel.sampled(look, 4) for look in looks)
    assert set(before) == {"psnr", "ssim", "latent_error", "top1", "top5", "log_p", "frechet"} == set(panel.readings)
    gains = panel.better(after, before)
    for name, sign in (("psnr", 1), ("ssim", 1), ("latent_error", -1)):
        pair = [sign * look["paired"].values[name].reshape(4, 2) for look in looks[::-1]]
        expected = paired_difference(*pair, seed=0)
        assert (gains[name].estimate, gains[name].low, gains[name].high) == pytest.approx(
            (expected.estimate, expected.low, expected.high)
        )
    frechet = panel.judges["concepts:models/emoji-evaluator"].distances["frechet"].reference  # type: ignore[attr-defined]
    features = [look["concepts:models/emoji-evaluator"].features for look in looks]
    assert before["frechet"][0] == pytest.approx(frechet(features[0]))
    assert gains["frechet"].estimate == pytest.approx(frechet(features[0]) - frechet(features[1]))  # less is better
    assert len(before["psnr"]) == 1 + 1000


def test_one_prompt_gives_no_distance() -> None:
    panel = panel_of(("paired", "concepts:models/emoji-evaluator"), PLAIN, JudgeSource())
    look = panel.look(Drawn(IMAGES[:1], PROMPTS[:1], LATENTS[:1], Drawn(OTHERS[:1], PROMPTS[:1], TARGETS[:1])))
    assert "frechet" not in panel.sampled(look, 1)


def test_two_judges_of_one_measure_are_refused() -> None:
    names = ("concepts:models/emoji-evaluator", "concepts:models/../models/emoji-evaluator")
    with pytest.raises(MetricError, match="both measure top1"):
        panel_of(names, PLAIN, JudgeSource())


def test_every_judge_that_is_listed_exists() -> None:
    for address in JUDGES.values():
        assert callable(lookup(address))


@pytest.mark.parametrize("name", recipe_names())
def test_roles_of_a_recipe_share_no_files(name: str) -> None:
    """What a loss sees, what decides and what reports; only the report shows the loss's own terms."""
    recipe = read_recipe(recipe_names()[name])
    terms = TermSettings(str(recipe.path(recipe.scorer)) if recipe.scorer else "", quality=recipe.quality)
    files = {role: panel_of(names_of(recipe, role), recipe, JudgeSource()).files for role in ROLES[1:]}
    files["fit"] = term_files(terms) | FitEncoders(recipe.fit, recipe, JudgeSource(terms=terms)).files_at_hand()
    check_apart(files)
    if recipe.scorer:
        assert files["fit"]


def test_roles_that_share_a_file_are_refused() -> None:
    one = panel_of(("concepts:models/emoji-evaluator",), PLAIN, JudgeSource()).files
    other = panel_of(("concepts:models/../models/emoji-evaluator",), PLAIN, JudgeSource()).files
    assert one
    check_apart({"fit": frozenset(), "gate": frozenset(), "report": one})
    with pytest.raises(MetricError, match="gate and report look through the same file"):
        check_apart({"fit": frozenset(), "gate": other, "report": one})


def test_the_terms_of_the_loss_are_a_judge_too() -> None:
    scorer = str(ROOT / "models/emoji-scorer")
    panel = panel_of(("terms",), PLAIN, JudgeSource(terms=TermSettings(scorer)))
    look = panel.look(DRAWN)["terms"]
    assert isinstance(look, Look)
    assert set(look.values) == {"text_image", "quality"}
    direct = panel.judges["terms"].judge.scores(IMAGES * 2 - 1, PROMPTS, LATENTS)  # type: ignore[attr-defined]
    np.testing.assert_allclose(look.values["quality"], direct["quality"], atol=1e-6)
