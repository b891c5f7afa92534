"""What calibrate, evaluate and ablate are asked and may write: numbers without meaning, noise that never meets."""

import math
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from qsched_runtime import Coefficients, ScheduleTable

from qsched_edge import noise
from qsched_edge.ablate import run as ablation
from qsched_edge.ablate.settings import Judging
from qsched_edge.bundle.card import scheduler_json
from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.calibrate.inputs import draws_of
from qsched_edge.calibrate.run import started
from qsched_edge.calibrate.search import Point, Proposal
from qsched_edge.calibrate.searches.gradient_check import cosine, ratio
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.errors import MetricError, RequestError
from qsched_edge.evaluate import plots
from qsched_edge.evaluate.settings import EvaluationSettings
from qsched_edge.jaq.metrics import metric
from qsched_edge.jaq.settings import TermSettings
from qsched_edge.jaq.terms import QUALITY, TEXT_IMAGE
from qsched_edge.prompts import PromptSet

TABLE = ScheduleTable(*[np.array([9.0, 5.0]) for _ in range(7)], 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"k": math.nan}, "k nan cannot weigh a term"),
        ({"k": math.inf}, "k inf cannot weigh a term"),
        ({"k": -2.0}, "k -2.0 cannot weigh a term"),
        ({"seed": -1}, "seed -1 is out of range: use 0 to 99"),
        ({"seed": 100}, "seed 100 is out of range"),
        ({"workers": 0}, "workers 0 is too few"),
        ({"fit_prompts": noise.PROMPTS + 1}, "fit_prompts 10001 is too many"),
    ],
)
def test_numbers_without_meaning_are_refused(asked: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        CalibrationSettings(**asked)
    CalibrationSettings(k=0.0, seed=99, workers=1)


def test_no_two_purposes_of_any_seed_share_noise() -> None:
    """The ends of every run of streams, from the first to the last prompt that is allowed."""
    texts = PromptSet(Path("x"), ("p",) * noise.PROMPTS, "")
    most = {"fit_prompts": noise.PROMPTS, "heldout_prompts": noise.PROMPTS}
    drawn = [
        draws_of(CalibrationSettings(seed=s, **most), texts, texts)[n]
        for s in range(noise.SEEDS)
        for n in ("fit", "heldout")
    ]
    ranges = [(d.first_seed, d.first_seed + len(d.prompts) - 1) for d in drawn]
    ranges += [(noise.reporting(s, 0), noise.reporting(s, noise.PROMPTS - 1)) for s in range(noise.SEEDS)]
    ranges = sorted([*ranges, (noise.observing(0), noise.observing(noise.SEEDS * noise.PROMPTS - 1))])
    assert all(before[1] < after[0] for before, after in pairwise(ranges))
    plain = draws_of(CalibrationSettings(), texts, texts)  # all published numbers are of these streams
    half = CalibrationSettings().heldout_prompts // 2
    assert [plain[n].first_seed for n in ("fit", "heldout", "choosing", "deciding")] == [0, 10**6, 10**6, 10**6 + half]
    assert (noise.reporting(2, 7), noise.observing(7)) == (2_020_007, 3_000_007)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        (EvaluationSettings, {"seeds": 101}),
        (EvaluationSettings, {"prompts": 10_001}),
        (Judging, {"seeds": 101}),
        (Judging, {"prompts": 10_001}),
    ],
)
def test_reports_stay_in_their_own_noise(kind: type, asked: dict) -> None:
    with pytest.raises(RequestError, match=r"is too many: use \d+ or fewer"):
        kind(**asked)


def test_numbers_that_are_not_finite_become_null() -> None:
    good, bad = np.array([1.0, 2.0]), np.array([1.0, np.nan])
    for function, pair in product((cosine, ratio), ((good, bad), (bad, good), (good, 0 * good))):
        assert function(*pair) is None
    assert cosine(good, good) == pytest.approx(1.0)
    assert ablation.mean(bad) is ablation.gain(bad, good) is None
    assert ablation.mean(good) == 1.5
    rows = [{"name": "x", "passes": 2, "curve": [[1, 0.0, 0.5], [2, 0.1, None]], "gains": {"jaq": None}}]
    for picture in (plots.curves(rows), plots.surface([0.8, 1.2], [[None, 1.0], [0.5, 0.2]])):
        assert picture.startswith(b"\x89PNG")
    text = ablation.text_table(
        {"bundles": {"w4": {"rows": [{**rows[0], "group": "loss"}], "judged": [], "measures": {}}}}
    )
    assert "not finite" in text


def test_a_stock_schedulers_infinity_stays_out_of_the_bundle() -> None:
    stock = {"_class_name": "LCMScheduler", "lambda_min_clipped": -math.inf, "beta_start": 0.1, "trained_betas": None}
    assert scheduler_json(stock) == {"_class_name": "LCMScheduler", "beta_start": 0.1, "trained_betas": None}


@pytest.mark.parametrize(("registry", "name"), [(QUALITY, "clip-iqa:"), (TEXT_IMAGE, "clip:"), (TEXT_IMAGE, "hps:")])
def test_a_colon_is_followed_by_a_model(registry: dict[str, str], name: str) -> None:
    with pytest.raises(MetricError, match="names no model after the colon"):
        metric(registry, name, TermSettings(), "cpu")


def test_a_start_at_the_closed_form_pays_for_all_it_took() -> None:
    identity, other = (LearnedSchedule(TABLE, Coefficients(np.full(2, v), np.ones(2))) for v in (1.0, 1.1))
    first = Proposal("closed", other, 0.1, 96, 40, 7.5, False, 0, {}, (Point(32, 0.0, identity), Point(96, 0.1, other)))
    problem = SimpleNamespace(start=identity, paid=None)
    found = started(problem, first)  # type: ignore[arg-type]
    assert found.start is other
    assert found.paid is first
