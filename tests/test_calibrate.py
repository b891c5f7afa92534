"""Calibration: the surrogate gradient, the safeguards, resume to the bit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from qsched_runtime import Coefficients, Sampler
from qsched_runtime import manifest as manifests

from qsched_edge.calibrate import run as stage
from qsched_edge.calibrate.gradient import Decoder, batch_gradient, replay
from qsched_edge.calibrate.grid import ramp
from qsched_edge.calibrate.journal import Journal
from qsched_edge.calibrate.objective import Objective
from qsched_edge.calibrate.run import Settings, calibrate, choose
from qsched_edge.calibrate.search import Problem, Proposal
from qsched_edge.errors import PromptsError, RequestError
from qsched_edge.intervals import Interval
from qsched_edge.jaq.loss import JAQ
from qsched_edge.recipes import resolve

FEW = Settings(points=3, iterations=3, fit_prompts=4, heldout_prompts=4)


@pytest.fixture
def copy(bundles: dict[int, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles[4], tmp_path / "bundle"))


@pytest.fixture(scope="module")
def problem(bundles: dict[int, Path], recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    spec = resolve(str(recipe))
    prompts = ("a red apple, noto style", "a cat face, fluent style")
    objective = Objective(Sampler.from_pretrained(bundles[4]), stage.judge_of(spec.recipe), prompts, 0, 4)
    journal = Journal(tmp_path_factory.mktemp("journal") / "j", "test")
    return Problem(objective, JAQ(2.0, (0.0, 0.5), (0.1, 0.2)), journal, spec.part("vae"), 3, 3, True)


def test_replay_in_torch_is_the_samplers_trajectory(problem: Problem) -> None:
    candidate = Coefficients(np.array([1.02, 0.99, 1.0, 0.97]), np.array([0.98, 1.01, 1.03, 1.0]))
    steps = list(problem.objective.trajectory(problem.objective.batches[0], candidate))
    theta = torch.tensor(np.stack([candidate.c_x, candidate.c_eps]), dtype=torch.float32)
    table = problem.objective.sampler.manifest.schedules[4]
    np.testing.assert_allclose(replay(table, steps, theta).numpy(), steps[-1].x_next, atol=1e-5)


def test_gradient_of_the_last_step_agrees_with_finite_differences_of_the_true_score(problem: Problem) -> None:
    """At the last step no later network pass depends on the coefficients, so the surrogate is the gradient."""
    decoder, batch = Decoder(problem.vae, problem.objective.sampler.manifest.latents), problem.objective.batches[0]

    def score(c_x: float, c_eps: float) -> float:
        candidate = Coefficients(np.array([1, 1, 1, c_x]), np.array([1, 1, 1, c_eps]))
        steps = list(problem.objective.trajectory(batch, candidate))
        with torch.no_grad():
            terms = problem.objective.judge.terms(decoder(torch.from_numpy(steps[-1].x_next)), batch.prompts)
        return float(problem.jaq(*terms).double().sum())

    ones = Coefficients.identity(4)
    steps = list(problem.objective.trajectory(batch, ones))
    _, gradient = batch_gradient(problem, decoder, steps, batch.prompts, ones)
    h = 2e-3
    slopes = [(score(1 + h, 1) - score(1 - h, 1)) / (2 * h), (score(1, 1 + h) - score(1, 1 - h)) / (2 * h)]
    np.testing.assert_allclose(gradient[:, 3], slopes, rtol=0.1, atol=0.02 * np.abs(gradient).max())


def test_grid_has_the_papers_parameterisation() -> None:
    assert ramp(0.8, 4).tolist() == np.linspace(0.8, 1.0, 4).tolist()
    assert ramp(0.9, 1).tolist() == [0.9]


def test_calibrate_writes_coefficients_record_and_folded_table(copy: Path, recipe: Path) -> None:
    result = calibrate(copy, FEW, None, None, str(recipe), quiet=True)
    manifest = manifests.read(copy)
    assert manifest.raw["calibration"]["4"] == json.loads(json.dumps(result.record))
    assert manifest.coefficients[4].c_x.tolist() == result.record["c_x"]
    assert {c["search"] for c in result.record["candidates"]} == {"grid", "gradient"}
    assert [c["passes"] for c in result.record["candidates"]] == [9 * 4 * 4, 4 * 4 * 4]
    from qsched_edge.bundle import verify

    verify(copy)
    assert not copy.with_name(f".{copy.name}.calibration").exists()


def test_identity_ships_unless_the_interval_lies_above_zero() -> None:
    ones, other = Coefficients.identity(4), Coefficients(np.full(4, 1.1), np.ones(4))

    def verdict(estimate: float, low: float) -> stage.Verdict:
        return stage.Verdict(Proposal("grid", other, 1.0, 1), Interval(estimate, low, estimate + 1))

    assert choose([verdict(0.5, -0.01), verdict(-0.2, -0.5)], ones).search == "identity"
    assert choose([verdict(0.5, 0.01), verdict(0.9, -0.1)], ones).search == "grid"


@pytest.mark.parametrize("stop_at", [1, 5, 12, 16])
def test_an_interrupted_calibration_resumes_to_the_same_coefficients(
    copy: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    whole = Path(shutil.copytree(copy, tmp_path / "whole"))
    expected = calibrate(whole, FEW, None, None, str(recipe), quiet=True).record
    before = (copy / "qsched.json").read_bytes()
    recall, calls = Journal.recall, []

    def interrupted(self, key, compute):  # type: ignore[no-untyped-def]
        calls.append(key)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return recall(self, key, compute)

    monkeypatch.setattr(Journal, "recall", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(copy, FEW, None, None, str(recipe), quiet=True)
    assert (copy / "qsched.json").read_bytes() == before
    monkeypatch.setattr(Journal, "recall", recall)
    journal = copy.with_name(f".{copy.name}.calibration") / "journal.jsonl"
    if journal.exists():
        with journal.open("a") as handle:
            handle.write('["cut off in the mid')  # a kill while writing
    found = calibrate(copy, FEW, None, None, str(recipe), quiet=True).record
    assert {k: found[k] for k in ("c_x", "c_eps", "shipped", "candidates")} == {
        k: expected[k] for k in ("c_x", "c_eps", "shipped", "candidates")
    }


def test_bad_requests_leave_the_bundle_alone(copy: Path, recipe: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("# only a header\n\n")
    before = (copy / "qsched.json").read_bytes()
    with pytest.raises(PromptsError, match="has no prompts"):
        calibrate(copy, FEW, empty, None, str(recipe), quiet=True)
    with pytest.raises(PromptsError, match=r"has 128 prompts, 999 were asked for"):
        calibrate(copy, replace(FEW, fit_prompts=999), None, None, str(recipe), quiet=True)
    with pytest.raises(RequestError, match="unknown search 'gird': did you mean 'grid'"):
        Settings(search="gird")
    assert (copy / "qsched.json").read_bytes() == before
