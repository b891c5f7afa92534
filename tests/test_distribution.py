"""The loss over sets of pictures: its numbers against independent arithmetic, its encoders, calibrations by it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from qsched_runtime import Coefficients, ScheduleTable

from qsched_edge.bundle.learned import LearnedSchedule, distance
from qsched_edge.bundle.verify import verify
from qsched_edge.calibrate.place import Place
from qsched_edge.calibrate.results import Scored, joined
from qsched_edge.calibrate.run import calibrate
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import Recipe
from qsched_edge.errors import MetricError, RequestError
from qsched_edge.jaq.distribution import SetLoss
from qsched_edge.jaq.encoders import FitEncoders
from qsched_edge.jaq.loss import Scores
from qsched_edge.jaq.settings import JudgeSource, TermSettings
from qsched_edge.work.journal import Journal

RNG = np.random.default_rng(0)
REFERENCES = ROOT / "models/emoji-references"
PLAIN = Recipe("plain", "nowhere", folder=ROOT)
SETTINGS = CalibrationSettings(
    search=("grid",), loss="distribution", references=REFERENCES, points=3, fit_prompts=4, heldout_prompts=8,
    place=Place(threads=1),
)  # fmt: skip


def seen(shift: float, count: int = 12) -> Scores:
    """Features by two encoders, further from the references with `shift` for the first, nearer for the second."""
    noise = np.random.default_rng(1).normal(size=(2, count, 3))
    return Scores({}, {"a": (noise[0] + shift).astype(np.float32), "b": (noise[1] + 1 - shift).astype(np.float32)})


TARGETS = {name: RNG.normal(size=(20, 3)).astype(np.float32) for name in "ab"}


def mmd_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate, pair by pair, with the kernel of KID."""
    scale = np.mean([float(row @ row) for row in y])
    k = lambda a, b: (float(a @ b) / scale + 1) ** 3  # noqa: E731
    within = [np.mean([k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (x, y)]
    return sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_gains_are_differences_of_mmd_in_units_of_their_spread_at_identity() -> None:
    """By encoder: from pairs written out, and resamples of the prompts counted one by one."""
    before, after = seen(0.0), seen(0.4)
    loss = SetLoss.against(before, TARGETS)
    expected = []
    for name, y in TARGETS.items():
        x, moved = (s.features[name].astype(float) for s in (before, after))
        assert loss.identity[name] == pytest.approx(mmd_by_hand(x, y.astype(float)))
        expected.append((loss.identity[name] - mmd_by_hand(moved, y.astype(float))) / loss.unit[name])
    assert loss.total(before) == pytest.approx(0.0, abs=1e-9)
    assert expected[0] < 0 < expected[1]
    assert loss.total(after) == pytest.approx(sum(expected))
    assert replace(loss, combine="worst").total(after) == pytest.approx(min(expected))
    gain = loss.gain(after, before, seed=0)
    assert gain.estimate == pytest.approx(sum(expected))
    assert gain.low < gain.estimate < gain.high
    assert replace(loss, combine="worst").gain(before, after, seed=0).estimate == pytest.approx(-max(expected))


def test_the_interval_of_a_gain_holds_it_as_often_as_it_says() -> None:
    """Gains of fresh prompts over a truth that many prompts tell: the 95 % interval is no narrower than it says."""
    rng = np.random.default_rng(2)
    many = [rng.normal(size=(1200, 3)).astype(np.float32) + shift for shift in (0.8, 0.5)]
    loss = SetLoss.against(Scores({}, {"a": many[0][:100]}), {"a": TARGETS["a"]})
    truth = loss._whole("a", Scores({}, {"a": many[0]})) - loss._whole("a", Scores({}, {"a": many[1]}))
    hits = 0
    for start in range(0, 1200, 30):
        before, after = (Scores({}, {"a": m[start : start + 30]}) for m in many)
        gain = loss.gain(after, before, seed=start)
        hits += gain.low <= truth / loss.unit["a"] <= gain.high
    assert hits >= 34  # of 40; 38 are expected, and fewer than 34 come in 1 % of the cases


def test_features_that_tell_nothing_apart_are_refused() -> None:
    same = Scores({}, {"a": np.ones((6, 3), np.float32)})
    with pytest.raises(MetricError, match="encoder a sees no difference between pictures"):
        SetLoss.against(same, {"a": TARGETS["a"]})
    assert not Scores({}, {"a": np.full((2, 3), np.nan, np.float32)}).finite


def test_features_survive_the_journal_to_the_bit() -> None:
    values = Scores({"reference": np.array([0.1, 0.2])}, {"a": RNG.normal(size=(2, 5)).astype(np.float32)})
    stored = [json.loads(json.dumps(Scored(values).json())) for _ in range(2)]
    back = joined([Scored.of(part).scores for part in stored])
    assert (back["reference"] == [0.1, 0.2, 0.1, 0.2]).all()
    assert (back.features["a"] == np.concatenate([values.features["a"]] * 2)).all()
    assert back.count == 4


def encoders(*names: str, references: Path = REFERENCES) -> FitEncoders:
    terms = TermSettings(str(ROOT / "models/emoji-scorer"))
    return FitEncoders(names, PLAIN, JudgeSource(terms=terms, references=str(references)))


def test_patches_see_blur_and_noise_and_no_colour() -> None:
    """Softened or noisy drawings are further from drawings than other drawings are; tinted ones are not."""
    asked = encoders("patches")
    images = asked.references.square(64)
    near = {"patches": asked.seen(asked.made(), images[::2], [""] * 64)["patches"]}
    rng = np.random.default_rng(0)
    soft = (images + np.roll(images, 1, 2) + np.roll(images, 1, 3) + np.roll(images, (1, 1), (2, 3))) / 4
    kinds = {"plain": images, "soft": soft, "noisy": images + rng.normal(0, 0.1, images.shape), "dark": images - 0.1}
    found = {n: Scores({}, asked.seen(asked.made(), v[1::2].astype(np.float32), [""] * 64)) for n, v in kinds.items()}
    loss = SetLoss.against(found["plain"], near)
    assert loss.total(found["soft"]) < -1
    assert loss.total(found["noisy"]) < -1
    assert loss.total(found["dark"]) == pytest.approx(0, abs=1e-3)


def test_clip_sees_whether_pictures_go_with_their_captions() -> None:
    """The same pictures under each other's captions are further away, where captions are known; else they are not."""
    asked = encoders("clip")
    made = asked.made()
    images, captions = asked.references.square(64)[:48], list(asked.references.captions[:48])
    target = {"clip": asked.seen(made, asked.references.square(64)[48:], asked.references.captions[48:])["clip"]}
    right = Scores({}, asked.seen(made, images, captions))
    loss = SetLoss.against(right, target)
    assert loss.total(Scores({}, asked.seen(made, images, captions[24:] + captions[:24]))) < 0
    alone = made["clip"](images, ())
    assert alone.shape[1] * 2 == right.features["clip"].shape[1]
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-5)


def test_references_without_captions_are_compared_by_pictures_alone(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(RNG.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    asked = encoders("clip", "patches", references=tmp_path)
    made = asked.made()
    assert not asked.captioned
    assert asked.of_references(made, 64)["clip"].shape == (3, made["clip"](np.zeros((1, 3, 64, 64), "f4"), ()).shape[1])


def test_encoders_that_are_unknown_or_lack_references_are_one_line() -> None:
    with pytest.raises(MetricError, match="unknown encoder 'clop': did you mean 'clip'"):
        encoders("clop").made()
    with pytest.raises(MetricError, match="give --references FOLDER"):
        _ = FitEncoders(("patches",), PLAIN, JudgeSource()).references


@pytest.fixture
def copy(bundles: dict[int, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles[4], tmp_path / "bundle"))


def learn(folder: Path, recipe: Path, settings: CalibrationSettings = SETTINGS) -> dict:
    return calibrate(folder, settings, None, None, str(recipe), quiet=True).record


def test_a_calibration_by_sets_says_what_it_saw_and_resumes_to_the_bit(
    copy: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = learn(Path(shutil.copytree(copy, tmp_path / "whole")), recipe)
    assert expected["loss"]["name"] == "distribution"
    assert list(expected["loss"]["encoders"]) == ["clip", "patches"]
    assert expected["settings"]["combine"] == "sum"
    (grid,) = expected["candidates"]
    assert grid["fit"] >= 0
    assert set(grid["gate"]) == {"top1", "top5", "log_p", "frechet"}
    recall, calls = Journal.recall, []

    def interrupted(self, key, compute):  # type: ignore[no-untyped-def]
        calls.append(key)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return recall(self, key, compute)

    monkeypatch.setattr(Journal, "recall", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(copy, recipe)
    monkeypatch.setattr(Journal, "recall", recall)
    assert learn(copy, recipe)["candidates"] == expected["candidates"]
    verify(copy)


def test_held_out_pictures_are_drawn_once_for_the_loss_and_the_gate(
    copy: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with `accept` loss the gate is not asked at all."""
    from qsched_edge.calibrate.objective import Objective

    drawn, decided = Objective.drawn, []

    def counted(self, batch, candidate):  # type: ignore[no-untyped-def]
        decided.append((batch.seeds, json.dumps(candidate.json())) if batch.seeds[0] >= 1_000_000 else None)
        return drawn(self, batch, candidate)

    monkeypatch.setattr(Objective, "drawn", counted)
    record = learn(copy, recipe)
    held = [key for key in decided if key]
    assert len(held) == len(set(held)) == 2  # one batch by the stock schedule and by the grid's best
    assert record["candidates"][0]["gate"]
    alone = learn(copy, recipe, replace(SETTINGS, accept="loss"))
    assert alone["candidates"][0]["gate"] == {}
    assert alone["candidates"][0]["heldout_gain"] == record["candidates"][0]["heldout_gain"]


def test_what_a_set_loss_cannot_do_is_refused(copy: Path, recipe: Path) -> None:
    for search in ("gradient", "channel", "all"):
        with pytest.raises(RequestError, match="follows the gradient of single pictures: with --loss"):
            replace(SETTINGS, search=(search,))
    for bad in ({"combine": "mean"}, {"proximity": -1.0}):
        with pytest.raises(RequestError):
            replace(SETTINGS, **bad)
    before = (copy / "qsched.json").read_bytes()
    with pytest.raises(MetricError, match="give --references FOLDER"):
        learn(copy, recipe, replace(SETTINGS, references=None))
    with pytest.raises(MetricError, match="what is fitted to and what decides look through the same file"):
        learn(copy, recipe, replace(SETTINGS, fit=(f"shallow:{ROOT}/models/emoji-gate",)))
    assert (copy / "qsched.json").read_bytes() == before


def test_a_recipe_names_its_loss_its_encoders_and_its_references(copy: Path, recipe: Path) -> None:
    mine = recipe.with_name("sets.toml")
    text = f'loss = "distribution"\nfit = ["patches"]\nfit_references = "{REFERENCES}"\n[keep]'
    mine.write_text(recipe.read_text().replace("[keep]", text))
    record = calibrate(copy, replace(SETTINGS, loss="", references=None), None, None, str(mine), quiet=True).record
    assert list(record["loss"]["encoders"]) == ["patches"]
    assert record["settings"]["loss"] == "distribution"
    other = calibrate(copy, replace(SETTINGS, loss="jaq"), None, None, str(mine), quiet=True).record
    assert other["loss"]["name"] == "jaq"


def test_proximity_takes_the_distance_from_the_stock_schedule_off(copy: Path, recipe: Path) -> None:
    table = ScheduleTable(*[np.array([9.0, 6.0, 4.0, 2.0]) for _ in range(7)], 1.0)  # type: ignore[arg-type]
    stock = LearnedSchedule.stock(table)
    moved = replace(table, timesteps=np.array([9.0, 7.8, 4.0, 2.0]), c=table.c * np.array([1, 1, 1, 1.2]))
    far = LearnedSchedule(moved, Coefficients(np.array([1, 1, 1.1, 1]), np.ones(4)))
    assert distance(stock, stock, table) == 0
    assert distance(far, stock, table) == pytest.approx(((1.8 / 9) ** 2 + 0.2**2 + 0.1**2) / 4)
    free = learn(copy, recipe)["candidates"][0]
    held = learn(copy, recipe, replace(SETTINGS, proximity=1e4))["candidates"][0]
    assert free["fit"] > 0
    assert (held["c_x"], held["c_eps"]) == ([1.0] * 4, [1.0] * 4)
    assert held["fit"] == pytest.approx(0.0, abs=1e-9)
