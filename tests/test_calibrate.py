"""Calibration: safeguards, honest counts, resume to the bit, budgets, losses."""

import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from qsched_runtime import Coefficients, Sampler, ScheduleTable
from qsched_runtime import manifest as manifests

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.bundle.opened import open_bundle
from qsched_edge.bundle.verify import verify
from qsched_edge.calibrate.budget import Budget
from qsched_edge.calibrate.draws import Draws
from qsched_edge.calibrate.inputs import judge_of, terms_of
from qsched_edge.calibrate.memo import Memo
from qsched_edge.calibrate.objective import Objective
from qsched_edge.calibrate.place import Place
from qsched_edge.calibrate.record import sentence
from qsched_edge.calibrate.run import calibrate
from qsched_edge.calibrate.safeguards import collapse, saturation, warnings_of
from qsched_edge.calibrate.search import Proposal
from qsched_edge.calibrate.searches.space import at_bounds
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.calibrate.verdicts import DECIDERS, Gains, Verdict, choose, ships
from qsched_edge.checkpoint.recipes import resolve
from qsched_edge.errors import BundleError, PromptsError, RequestError
from qsched_edge.evaluate import run as evaluation
from qsched_edge.evaluate.cells import Asked, Cell, write_cell
from qsched_edge.evaluate.judging import report_panel
from qsched_edge.evaluate.settings import EvaluationSettings
from qsched_edge.intervals import Interval, resamples
from qsched_edge.jaq.judges import Reading
from qsched_edge.jaq.loss import Scores
from qsched_edge.jaq.panel import Panel
from qsched_edge.jaq.settings import JudgeSource, TermSettings
from qsched_edge.jaq.terms import TERMS, Seen, Term
from qsched_edge.prompts import read_prompts
from qsched_edge.work.journal import Journal

FEW = CalibrationSettings(
    search=("grid", "gradient"), points=3, iterations=2, fit_prompts=4, heldout_prompts=4, place=Place(threads=1)
)
PROMPTS = ("a red apple, noto style", "a cat face, fluent style")
TABLE = ScheduleTable(*[np.array([9.0, 6.0, 4.0, 2.0]) for _ in range(7)], 1.0)  # type: ignore[arg-type]
DECIDED = ("c_x", "c_eps", "shipped", "candidates")


def learn(folder: Path, recipe: Path, settings: CalibrationSettings = FEW) -> dict:
    return calibrate(folder, settings, None, None, str(recipe), quiet=True).record


def test_calibrate_writes_coefficients_record_and_folded_table(copy: Path, recipe: Path) -> None:
    record = learn(copy, recipe)
    manifest = manifests.read(copy)
    assert manifest.raw["calibration"]["4"] == json.loads(json.dumps(record))
    assert manifest.coefficients[4].c_x.tolist() == record["c_x"]
    assert [c["search"] for c in record["candidates"]] == ["grid", "gradient"]
    assert record["bounds"]["c_x"] == [0.8, 1.2]
    verify(copy)
    assert not copy.with_name(f".{copy.name}.calibration").exists()


def test_the_bundle_may_be_the_folder_one_is_in(
    copy: Path, recipe: Path, bundles: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    learn(Path(), recipe, replace(FEW, search=("line",), budget="32"))
    verify(copy)
    assert sorted(p.name for p in copy.parent.iterdir()) == ["bundle"]
    settings = EvaluationSettings(prompts=2, seeds=1, reference=bundles[32])
    report = evaluation.evaluate(Path(), tmp_path / "report", settings, None, str(recipe), quiet=True)
    assert report["bundle"] == manifests.read(copy).name


def test_pictures_from_memory_are_the_samplers_and_cost_no_pass(bundles: dict[int, Path], recipe: Path) -> None:
    """Every output is the network's own, whatever was remembered; passes are counted by watching the network."""
    sampler = Sampler.from_pretrained(bundles[4], threads=1)
    stock = open_bundle(bundles[4]).stock(4)
    objective = Objective(sampler, judge_of(resolve(str(recipe)).recipe), Draws(PROMPTS, 3), stock)
    graph, rows = sampler.graphs["unet"], []
    objective.sampler.graphs = {**sampler.graphs, "unet": lambda feeds: (rows.append(1), graph(feeds))[1]}
    candidates = [np.ones(4), np.array([1, 1, 1, 1.1]), np.array([1, 1.1, 1, 1]), np.array([1.1, 1, 1, 1])]
    expected = [8, 0, 4, 6]  # two pictures: all steps, none, those after the second, those after the first
    for c_eps, passes in zip(candidates, expected, strict=True):
        before, calls = objective.sampler.passes, len(rows)
        *_, last = objective.trajectory(
            objective.batches[0], replace(stock, coefficients=Coefficients(np.ones(4), c_eps))
        )
        assert objective.sampler.passes - before == passes
        assert 2 * (len(rows) - calls) == passes
        plain = sampler(PROMPTS, seed=[3, 4], coefficients=Coefficients(np.ones(4), c_eps))
        assert (plain.latents == last.x_next).all()


def test_a_step_that_needs_no_earlier_one_is_never_computed_again(bundles: dict[int, Path], recipe: Path) -> None:
    """With one step nothing the network sees depends on the coefficients."""
    stock, judge = open_bundle(bundles[4]).stock(2), judge_of(resolve(str(recipe)).recipe)
    objective = Objective(Sampler.from_pretrained(bundles[4]), judge, Draws(PROMPTS, 0), stock)
    for value in (1.0, 1.1, 0.9):
        moved = replace(stock, coefficients=Coefficients(np.ones(2), np.array([1.0, value])))
        list(objective.trajectory(objective.batches[0], moved))
    assert objective.sampler.passes == 4


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 6))
def test_memory_is_bounded_and_forgets_the_oldest(keys: list[int], room: int) -> None:
    memo, model = Memo(room * 10), []
    for key in keys:
        assert (memo.get(key) is not None) == (key in model)
        if key in model:
            model.remove(key)
        else:
            memo.put(key, key, 10)
        model = [*model, key][-room:]
        assert memo.held <= room * 10


def verdict(name: str, choosing: float, low: float, deciding: int = DECIDERS) -> Verdict:
    other = LearnedSchedule(TABLE, Coefficients(np.full(4, 1.1), np.ones(4)))
    proposal = Proposal(name, other, 1.0, 1, 1, 1.0, False, 0, {}, ())
    scores = Scores({"text_image": np.zeros(deciding), "quality": np.zeros(deciding)})
    gate = {"log_p": Interval(0.1, 0.05, 0.2)}
    first, second = Interval(choosing, 0, 1), Interval(low + 1, low, low + 2)
    return Verdict(proposal, Gains(first, gate, gate), Gains(second, gate, gate), scores)


def test_one_half_chooses_and_the_other_decides() -> None:
    lucky, sound = verdict("grid", 0.9, -0.1), verdict("free", 0.5, 0.2)
    chosen = choose([sound, lucky])
    assert chosen.proposal.search == "grid"
    assert not ships(chosen)  # nor does the runner-up slip in: that would be choosing on the deciding prompts
    assert ships(choose([sound, verdict("line", 0.1, 0.4)]))


def test_few_prompts_never_ship_anything_but_identity(copy: Path, recipe: Path) -> None:
    assert ships(verdict("free", 0.5, 0.2))
    assert not ships(verdict("free", 0.5, 0.2, deciding=DECIDERS - 1))
    record = learn(copy, recipe, replace(FEW, heldout_prompts=14))  # two searches: seven choose, seven decide
    assert record["shipped"] == "identity"
    assert any(w.startswith("the stock schedule ships: 7 prompts cannot decide") for w in record["warnings"])
    assert manifests.read(copy).coefficients[4].c_x.tolist() == [1.0] * 4
    found = learn(copy, recipe, replace(FEW, heldout_prompts=16))
    assert not any("cannot decide" in w for w in found["warnings"])
    (chosen,) = [c for c in found["candidates"] if c["search"] == found["chosen"]]
    assert chosen["lost"] == [name for name, gain in chosen["gate"].items() if gain["high"] < 0]
    assert set(chosen["won"]) <= {name for name, gain in chosen["gate"].items() if gain["low"] > 0}
    lets = bool(chosen["won"]) and not chosen["lost"]
    assert (found["shipped"] == chosen["search"]) == (chosen["heldout_gain"]["low"] > 0 and lets)


def gains_like(loss: float, *gate: Interval) -> Gains:
    measures = {f"measure {i}": gain for i, gain in enumerate(gate)}
    return Gains(Interval(loss, loss / 2, 2 * loss), measures, measures)


def test_the_gate_wants_a_gain_and_no_loss_by_judges_that_the_search_never_saw() -> None:
    gain, loss, unsure = Interval(0.1, 0.05, 0.2), Interval(-0.1, -0.2, -0.05), Interval(0.1, -0.1, 0.2)
    for gate, passes in (
        ((gain,), True),
        ((gain, unsure), True),
        ((unsure,), False),
        ((gain, loss), False),
        ((), False),
    ):
        found = replace(verdict("free", 0.5, 0.2), deciding=gains_like(0.5, *gate))
        assert ships(found) is passes
        assert ships(found, accept="loss")  # the paper's procedure asks nobody else
        assert ("loses on" in sentence(found, "gate")) == (loss in gate)
        assert f"{DECIDERS} prompts cannot" not in sentence(found, "gate")


def test_the_gate_has_its_say_among_the_proposals_and_the_deciding_prompts_have_none() -> None:
    gain, loss = Interval(0.1, 0.05, 0.2), Interval(-0.1, -0.2, -0.05)
    pleasing = replace(verdict("free", 0.9, 0.5), choosing=gains_like(0.9, loss))
    sound = replace(verdict("timesteps", 0.3, 0.2), choosing=gains_like(0.3, gain))
    assert choose([pleasing, sound]) is sound
    assert choose([pleasing, sound], accept="loss") is pleasing
    assert choose([pleasing, replace(sound, deciding=gains_like(0.3, loss))]).proposal.search == "timesteps"


def test_a_gate_of_many_measures_is_not_fooled_more_often_than_by_one() -> None:
    """Five measures without any effect, each alone a gain by chance on 2.5 % of the sets: one of them is on 12 %, but
    counted together on few."""
    rng, passed, names = np.random.default_rng(0), np.zeros(2), [f"measure {i}" for i in range(5)]
    panel = Panel(
        {"none": SimpleNamespace(readings={n: Reading(n, n) for n in names}, distances={}, files=frozenset())}
    )
    rows = np.concatenate([np.arange(60)[None], resamples(60, 0)])
    for _ in range(400):
        values = {name: rng.normal(size=60)[rows].mean(axis=1) for name in names}
        gate, together = (panel.better(values, {n: 0 * v for n, v in values.items()}, t) for t in (False, True))
        passed += np.array([bool(Gains(Interval(1, 1, 1), gate, g).won) for g in (gate, together)])
    alone, counted = passed / 400
    assert counted < 0.08 < alone


def test_choosing_among_noise_ships_as_seldom_as_the_interval_says() -> None:
    """Ten proposals without any effect, chosen on one half: the other half is fooled in about 2.5 % of the cases."""
    from qsched_edge.intervals import paired_difference

    rng, shipped = np.random.default_rng(0), 0
    for trial in range(200):
        choosing, deciding = rng.normal(size=(10, 40)), rng.normal(size=(10, 40))
        best = int(choosing.mean(axis=1).argmax())
        shipped += paired_difference(deciding[best], np.zeros(40), seed=trial).low > 0
    assert shipped / 200 <= 0.07


def test_warnings_name_what_is_wrong() -> None:
    edge = Coefficients(np.array([0.8, 1.0]), np.array([1.0, 1.2]))
    assert at_bounds(edge) == ["c_x[1]", "c_eps[2]"]
    found = warnings_of(Proposal("free", LearnedSchedule(TABLE, edge), 1.0, 1, 1, 1.0, True, 3, {}, ()))
    assert [w.split(": ")[0] for w in found] == ["free"] * 3
    before = Scores({"text_image": np.linspace(0, 1, 9), "quality": np.linspace(0, 1, 9)})
    assert "quality collapsed" in collapse("free", Scores({**before.values, "quality": np.full(9, 0.5)}), before)[0]
    assert collapse("free", before, before) == []
    assert "100% of the pictures lie at the high end" in saturation("quality", np.full(9, 0.999), (0.0, 1.0))[0]
    assert saturation("quality", np.linspace(0, 1, 9), (0.0, 1.0)) == []


def test_a_candidate_with_broken_pictures_is_never_proposed(
    copy: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qsched_edge.calibrate.objective import Objective as Real

    scores = Real.scores

    def broken(self, batch, schedule):  # type: ignore[no-untyped-def]
        found = scores(self, batch, schedule)
        return (
            found
            if (schedule.coefficients.c_eps == 1).all()
            else Scores({**found.values, "quality": found["quality"] * np.nan})
        )

    monkeypatch.setattr(Real, "scores", broken)
    record = learn(copy, recipe, replace(FEW, search=("grid",)))
    (grid,) = record["candidates"]
    assert grid["c_eps"] == [1.0] * 4
    assert grid["not_finite"] == 6
    assert any("6 candidates gave pictures that are not finite" in w for w in record["warnings"])


@pytest.mark.parametrize(
    ("text", "passes", "seconds"), [("", np.inf, np.inf), ("20000", 20000, np.inf), ("5m", np.inf, 300)]
)
def test_budgets_are_passes_or_time(text: str, passes: float, seconds: float) -> None:
    assert Budget.parse(text) == Budget(passes, seconds)


def test_a_spent_budget_proposes_the_best_so_far(copy: Path, recipe: Path) -> None:
    whole = learn(Path(shutil.copytree(copy, copy.parent / "whole")), recipe, replace(FEW, search=("grid",)))
    found = learn(copy, recipe, replace(FEW, search=("grid",), budget="50"))
    (few,), (all_,) = found["candidates"], whole["candidates"]
    assert few["passes"] <= 50 < all_["passes"]
    assert (few["budget_spent"], all_["budget_spent"]) == (True, False)
    assert few["curve"] == [p for p in all_["curve"] if p[0] <= 50]
    assert any("the budget ended the search" in w for w in found["warnings"])


@pytest.fixture(scope="module")
def uninterrupted(bundles: dict[int, Path], recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = Path(shutil.copytree(bundles[4], tmp_path_factory.mktemp("whole") / "bundle"))
    return learn(folder, recipe)


@pytest.mark.parametrize("stop_at", [1, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 15))])
def test_an_interrupted_calibration_resumes_to_the_same_coefficients(
    copy: Path, recipe: Path, uninterrupted: dict, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    before = (copy / "qsched.json").read_bytes()
    recall, calls = Journal.recall, []

    def interrupted(self, key, compute):  # type: ignore[no-untyped-def]
        calls.append(key)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return recall(self, key, compute)

    monkeypatch.setattr(Journal, "recall", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(copy, recipe)
    assert (copy / "qsched.json").read_bytes() == before
    monkeypatch.setattr(Journal, "recall", recall)
    journal = copy.with_name(f".{copy.name}.calibration") / "journal.jsonl"
    if journal.exists():
        with journal.open("a") as handle:
            handle.write('["cut off in the mid')  # a kill while writing
    found = learn(copy, recipe)
    assert {k: found[k] for k in DECIDED} == {k: uninterrupted[k] for k in DECIDED}


def test_bad_requests_leave_the_bundle_alone(
    copy: Path, recipe: Path, bundles: dict[int, Path], tmp_path: Path
) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("# only a header\n\n")
    before = (copy / "qsched.json").read_bytes()
    with pytest.raises(PromptsError, match="has no prompts"):
        calibrate(copy, FEW, empty, None, str(recipe), quiet=True)
    with pytest.raises(PromptsError, match=r"has 128 prompts, 999 were asked for"):
        learn(copy, recipe, replace(FEW, fit_prompts=999))
    with pytest.raises(BundleError, match="is no 32-bit bundle"):
        learn(copy, recipe, replace(FEW, reference=bundles[4]))
    for bad, message in (
        ({"search": ("gird",)}, "unknown search 'gird': did you mean 'grid'"),
        ({"budget": "5 apples"}, "budget '5 apples' is neither passes nor time"),
        ({"search": ("channel",), "jacobian": "forward"}, "knows no single channels"),
    ):
        with pytest.raises(RequestError, match=message):
            CalibrationSettings(**bad)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="unknown device 'tpu'"):
        Place(device="tpu")
    assert (copy / "qsched.json").read_bytes() == before


def test_where_nothing_else_judges_nearness_to_full_precision_does(
    copy: Path, bundles: dict[int, Path], recipe: Path
) -> None:
    """The gate's gain in the latents' error is that of the sampler's own pictures."""
    plain = recipe.with_name("unjudged.toml")
    lines = recipe.read_text().splitlines()
    plain.write_text("\n".join(line for line in lines if not line.startswith(("gate", "evaluator"))))
    settings = replace(FEW, search=("grid",), reference=bundles[32])
    record = calibrate(copy, settings, None, None, str(plain), quiet=True).record
    (found,) = record["candidates"]
    coefficients = Coefficients(found["c_x"], found["c_eps"])
    held = read_prompts(ROOT / "calib_prompts/emoji-heldout.txt").last(4)
    seeds = [1_000_000 + i for i in range(4)]
    samplers = {bits: Sampler.from_pretrained(bundles[bits], threads=1, memory="low") for bits in (4, 32)}
    identity = Coefficients.identity(4)
    target = samplers[32](held, seed=seeds, coefficients=identity).latents.astype(np.float64)
    gains = [
        ((samplers[4](held, seed=seeds, coefficients=c).latents - target) ** 2).mean() for c in (identity, coefficients)
    ]
    assert record["gate"] == {"judges": ["paired"], "left_out": []}
    assert found["gate"]["latent_error"]["estimate"] == pytest.approx(gains[0] - gains[1], rel=1e-4, abs=1e-9)
    assert len(record["reference_sha256"]) == 64
    assert record["versions"]["python"] == platform.python_version()


def brightness(settings: TermSettings, device: str) -> Callable[[Seen], torch.Tensor]:
    """A term of one's own: the maker that its line in TERMS names."""
    return lambda seen: seen.images.mean(dim=(1, 2, 3))


def test_a_term_is_one_maker_and_one_line(copy: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    term = Term(f"{__name__}:brightness", "brightness", "bright", 0.0, 1.0)
    monkeypatch.setitem(TERMS, "mean_brightness", term)
    record = learn(copy, recipe, replace(FEW, loss="mean-brightness"))
    assert record["loss"]["name"] == "mean-brightness"
    assert record["loss"]["weights"] == [0.0, 0.0, 0.0, 1.0]
    assert all(c["fit"] >= 0 for c in record["candidates"])
    verify(copy)
    terms = terms_of(resolve(str(recipe)).recipe, CalibrationSettings())
    panel = report_panel(resolve(str(recipe)).recipe, PROMPTS, JudgeSource(terms=terms))
    write_cell(
        Sampler.from_pretrained(copy, threads=1), open_bundle(copy).stock(4), copy, Asked(panel, PROMPTS, 1, 1),
        lambda count: None,
    )  # fmt: skip
    assert Cell.load(copy / "cell.npz").looks["terms"].values["mean_brightness"].shape == (2,)
