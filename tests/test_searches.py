"""The searches against objectives whose optimum is known, and their books against a network that counts."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from qsched_runtime import Coefficients, ScheduleTable

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.calibrate.budget import Budget
from qsched_edge.calibrate.draws import Draws
from qsched_edge.calibrate.jobs import Job
from qsched_edge.calibrate.pairs import sums
from qsched_edge.calibrate.pictures import Pictures
from qsched_edge.calibrate.results import Done, Gradient, Scored
from qsched_edge.calibrate.search import Problem, propose
from qsched_edge.calibrate.searches.closed import Paired, Prediction, affine_channel, dns, landing, ptqd, q_drift
from qsched_edge.calibrate.searches.space import HIGH, LOW
from qsched_edge.calibrate.settings import Tuning
from qsched_edge.jaq.loss import Loss, Scores
from qsched_edge.work.journal import Journal

STEPS, CHANNELS = 4, 2
BEST_X, BEST_EPS = np.array([1.0, 1.02, 0.97, 1.05]), np.array([1.06, 0.98, 1.03, 0.96])
WEIGHTS = np.array([0.2, 0.5, 1.0, 2.0])
TABLE = ScheduleTable(
    np.array([900.0, 600.0, 300.0, 100.0]),
    np.ones(4),
    np.full(4, 0.9),
    np.full(4, -0.3),
    np.zeros(4),
    np.ones(4),
    np.array([4.0, 3, 2, 1]),
    1.0,
)

STOCK = LearnedSchedule.stock(TABLE)
NO_LIMIT = Budget()


class Bowl:
    """An engine whose pictures are a quadratic bowl: best at BEST_X, BEST_EPS and no bias, a bit apart
    for each batch."""

    workers = 3

    def __init__(self) -> None:
        self.jobs = 0

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        for job in jobs:
            self.jobs += 1
            yield Done(getattr(self, job.kind)(job), 1.0)

    def apart(self, job: Job) -> list[np.ndarray]:
        shift = 0.002 * np.sin(job.batch)
        c = job.schedule.coefficients
        rows = (
            c.c_x - BEST_X.reshape(-1, *[1] * (c.c_x.ndim - 1)),
            c.c_eps - BEST_EPS.reshape(-1, *[1] * (c.c_eps.ndim - 1)),
        )
        return [np.broadcast_to((r - shift).reshape(STEPS, -1), (STEPS, CHANNELS)) for r in rows] + [
            np.broadcast_to(np.asarray(c.bias).reshape(STEPS, -1), (STEPS, CHANNELS))
        ]

    def scores(self, job: Job) -> Scored:
        value = -sum(float((WEIGHTS[:, None] * r**2).mean(axis=1).sum()) for r in self.apart(job))
        count = job.draws.sizes[job.batch]
        return Scored(Scores({"text_image": np.full(count, value), "quality": np.zeros(count)}))

    def gradient(self, job: Job) -> Gradient:
        count = job.draws.sizes[job.batch]
        gradient = -2 * count * np.stack([WEIGHTS[:, None] * r / CHANNELS for r in self.apart(job)])
        return Gradient(float(count * self.scores(job).scores["text_image"][0]), gradient)

    def close(self) -> None: ...


def problem_in(folder: Path, budget: Budget = NO_LIMIT, points: int = 5, iterations: int = 60) -> Problem:
    pictures = Pictures(Bowl(), Journal(folder, "bowl"), Draws(tuple(f"prompt {i}" for i in range(20)), 0))
    loss = Loss({"text_image": 1.0}, {"text_image": 0.0}, {"text_image": 1.0})
    tuning = Tuning(points, iterations, check=False)
    return Problem(
        pictures, loss, STOCK, (CHANNELS, 8, 8), budget, np.random.default_rng(0), STOCK, "epsilon", retimed, tuning
    )  # fmt: skip


def retimed(timesteps: np.ndarray) -> ScheduleTable:
    return replace(TABLE, timesteps=timesteps)


def regret(coefficients: Coefficients) -> float:
    engine = Bowl()
    jobs = [Job("scores", Draws(("p",) * 20, 0), b, LearnedSchedule(TABLE, coefficients)) for b in range(3)]
    return -float(np.mean([done.result.scores["text_image"][0] for done in engine.run(jobs)]))


@pytest.mark.parametrize("name", ["free", "gradient", "blackbox", "channel"])
def test_searches_with_free_steps_find_the_optimum(name: str, tmp_path: Path) -> None:
    found = propose(name, problem_in(tmp_path / "j"))
    assert regret(found.schedule.coefficients) < 0.02 * regret(Coefficients.identity(STEPS))


def test_line_finds_the_best_line_that_scipy_finds(tmp_path: Path) -> None:
    def cost(ends: np.ndarray) -> float:
        return regret(Coefficients(np.linspace(ends[0], ends[1], STEPS), np.linspace(ends[2], ends[3], STEPS)))

    exact = scipy.optimize.minimize(cost, np.ones(4), method="L-BFGS-B", bounds=[(LOW, HIGH)] * 4)
    assert regret(propose("line", problem_in(tmp_path / "j")).schedule.coefficients) == pytest.approx(
        exact.fun, abs=1e-5
    )


def test_grid_has_the_papers_parameterisation_and_picks_its_best_point(tmp_path: Path) -> None:
    found = propose("grid", problem_in(tmp_path / "j"))
    axis = np.linspace(LOW, HIGH, 5)
    ramps = [Coefficients(np.linspace(s, 1, STEPS), np.linspace(m, 1, STEPS)) for s in axis for m in axis]
    assert regret(found.schedule.coefficients) == min(map(regret, ramps))
    assert found.pictures == 25 * 20


@pytest.mark.parametrize("name", ["grid", "line", "free", "gradient", "blackbox", "channel"])
def test_a_resumed_search_asks_and_spends_the_same(name: str, tmp_path: Path) -> None:
    """Killed after some answers, then begun again on the same journal."""
    whole = propose(name, problem_in(tmp_path / "whole"))
    first = problem_in(tmp_path / "part")
    run, answers = first.pictures.engine.run, iter(range(17))

    def dying(jobs: Sequence[Job]) -> Iterator[Done]:
        for result in run(jobs):
            if next(answers, None) is None:
                raise KeyboardInterrupt
            yield result

    first.pictures.engine.run = dying  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        propose(name, first)
    again = propose(name, problem_in(tmp_path / "part"))
    assert (again.schedule.coefficients.c_x == whole.schedule.coefficients.c_x).all()
    assert (again.passes, again.pictures, again.fit) == (whole.passes, whole.pictures, whole.fit)


@pytest.mark.parametrize("name", ["grid", "line", "free", "gradient", "blackbox", "channel"])
@pytest.mark.parametrize("passes", [90, 400])
def test_no_search_spends_more_than_its_budget(name: str, passes: int, tmp_path: Path) -> None:
    found = propose(name, problem_in(tmp_path / "j", Budget(passes=passes)))
    assert found.passes <= passes
    assert found.fit == max(p.fit for p in found.curve)
    assert found.curve[0].passes == 20 * STEPS  # c = 1 comes first, and everything has to be computed for it


def test_a_budget_of_time_counts_the_seconds_of_the_answers(tmp_path: Path) -> None:
    found = propose("grid", problem_in(tmp_path / "j", Budget(seconds=20)))  # three batches of one second a candidate
    assert found.spent
    assert found.pictures == 20 * 7  # c = 1 (3 s), then chunks of three candidates (9 s each): 3, 12, 21


def test_the_last_steps_pair_costs_no_pass(tmp_path: Path) -> None:
    problem = problem_in(tmp_path / "j")
    problem.score(STOCK)
    before = problem.spending.passes
    problem.score(problem.at(Coefficients(np.ones(4), np.array([1, 1, 1, 1.1]))))
    assert problem.spending.passes == before
    problem.score(problem.at(Coefficients(np.ones(4), np.array([1, 1, 1.1, 1]))))
    assert problem.spending.passes == before + 20
    problem.score(problem.at(Coefficients(np.ones(4), np.array([1, 1, 1.1, 0.9]))))
    assert problem.spending.passes == before + 20


def paired(
    k: float, mu: Sequence[float], noise: float, prediction: str = "epsilon", table: ScheduleTable = TABLE
) -> Paired:
    """Simulated pairs q = (1 + k) e + mu + noise."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(len(table)):
        x, e = rng.normal(size=(2, 64, CHANNELS, 16, 16))
        q = (1 + k) * e + np.array(mu)[:, None, None] + noise * rng.normal(size=e.shape)
        rows.append(sums(x, e, q))
    return Paired.of(np.stack(rows, axis=1), table, Prediction.of(prediction, table))


def test_ptqd_undoes_an_affine_error_exactly() -> None:
    """With no residual the corrected step is full precision's; the opposite sign would double the error."""
    found = ptqd(paired(-0.1, [0.05, -0.02], 0.0))
    rng = np.random.default_rng(1)
    x, e = rng.normal(size=(2, 3, CHANNELS, 8, 8)).astype(np.float32)
    q = (0.9 * e + np.array([0.05, -0.02])[:, None, None]).astype(np.float32)
    plain, corrected = TABLE.folded(Coefficients.identity(4)), TABLE.folded(found)
    for i in range(4):
        np.testing.assert_allclose(corrected.step(x, q, None, i), plain.step(x, e, None, i), atol=1e-5)


def test_affine_is_numpys_least_squares() -> None:
    rng = np.random.default_rng(2)
    x, e = rng.normal(size=(2, 500, 1, 4, 4))
    q = 0.8 * e + 0.1 * x + 0.03 + 0.2 * rng.normal(size=e.shape)
    one = ScheduleTable(*[np.array([v]) for v in (0.0, 1.0, 0.9, -0.3, 0.0, 1.0, 2.0)], 1.0)  # type: ignore[arg-type]
    found = affine_channel(Paired.of(sums(x, e, q)[:, None], one, Prediction.of("epsilon", one)))
    alpha, beta, gamma = np.linalg.lstsq(np.stack([q.ravel(), x.ravel(), np.ones(q.size)], 1), e.ravel(), rcond=None)[0]
    assert found.c_eps.item() == pytest.approx(alpha)
    assert found.c_x.item() == pytest.approx(1 - 0.3 * beta / 0.9)
    assert np.asarray(found.bias).item() == pytest.approx(-0.3 * gamma)


LEVELS = {  # alpha, sigma before the step; alpha, sigma after it
    "epsilon": (0.3, np.sqrt(1 - 0.09), 0.6, 0.8),
    "v_prediction": (0.3, np.sqrt(1 - 0.09), 0.6, 0.8),
    "sample": (0.3, np.sqrt(1 - 0.09), 0.6, 0.8),
    "flow": (0.3, 0.7, 0.6, 0.4),
}


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("v", [1e-4, 1e-3, 1e-2])
def test_dns_reaches_full_precisions_signal_and_noise(kind: str, v: float) -> None:
    """A deterministic step between two levels: full precision lands there, and so does the corrected step."""
    alpha, sigma, alpha_next, sigma_next = LEVELS[kind]
    row = ScheduleTable(*[np.array([c]) for c in (0.0, 1.0, 1.0, 1.0, 0.0, alpha, sigma)], 1.0)  # type: ignore[arg-type]
    of_noise, of_signal = (float(c[0]) for c in Prediction.of(kind, row)[2:])
    a, b = np.linalg.solve([[alpha, of_signal], [sigma, of_noise]], [alpha_next, sigma_next])
    c_x, gain = landing(a, b, alpha, sigma, of_noise, of_signal, v)
    assert a * alpha * c_x + b * of_signal * gain == pytest.approx(alpha_next)
    noise = np.hypot(a * sigma * c_x + b * of_noise * gain, b * gain * np.sqrt(v))
    assert noise == pytest.approx(sigma_next)
    assert landing(a, b, alpha, sigma, of_noise, of_signal, 0.0) == pytest.approx((1.0, 1.0))


def test_dns_is_its_papers_formula_for_epsilon() -> None:
    """s'^2 + v (s' - s)^2 = target^2, c_eps (1 + k) = (s' - s) / (target - s), solved by scipy."""
    s, target, v = 3.0, 2.0, 0.01
    aim = scipy.optimize.brentq(lambda y: y**2 + v * (y - s) ** 2 - target**2, 0, target)
    expected = (aim - s) / (target - s)
    assert landing(1.0, target - s, 1.0, s, 1.0, 0.0, v) == pytest.approx((1.0, expected))
    assert expected > 1


def test_closed_forms_never_weaken_the_denoising_that_noise_asks_for() -> None:
    p = paired(0.0, [0.0, 0.0], 0.3)
    drift, shifted = q_drift(p), dns(p)
    assert drift is not None
    assert shifted is not None
    assert (drift.c_eps > 1).all()
    assert (shifted.c_eps[:3] > 1).all()
    assert q_drift(paired(0.0, [0.0, 0.0], 0.3, "sample")) is None


GOAL = np.array([900.0, 780.0, 520.0, 330.0])


class Well(Bowl):
    """An engine whose pictures are best at GOAL's timesteps, with 0.9 of the fresh noise at every step."""

    def scores(self, job: Job) -> Scored:
        table, count = job.schedule.table, job.draws.sizes[job.batch]
        drawn = table.c[:3] / NOISY.c[:3]
        value = -float((((table.timesteps - GOAL) / 900) ** 2).sum() + ((drawn - 0.9) ** 2).sum())
        return Scored(Scores({"text_image": np.full(count, value), "quality": np.zeros(count)}))


NOISY = replace(TABLE, c=np.array([0.9, 0.7, 0.4, 0.0]))


def noisy_problem(folder: Path) -> Problem:
    start = LearnedSchedule.stock(NOISY)
    found = problem_in(folder)
    pictures = Pictures(Well(), found.pictures.journal, found.pictures.draws)
    return replace(
        found,
        pictures=pictures,
        stock=start,
        start=start,
        retimed=lambda timesteps: replace(NOISY, timesteps=timesteps),
    )


def test_timesteps_come_nearer_to_the_best_ones_and_keep_the_first(tmp_path: Path) -> None:
    found = propose("timesteps", noisy_problem(tmp_path / "j"))
    timesteps = found.schedule.table.timesteps
    assert timesteps[0] == NOISY.timesteps[0]
    assert (np.diff(timesteps) < 0).all()
    assert (timesteps == np.round(timesteps)).all()
    assert np.abs(timesteps - GOAL).max() < 0.35 * np.abs(NOISY.timesteps - GOAL).max()
    assert found.fit > found.curve[0].fit


def test_the_share_of_fresh_noise_is_found_and_other_columns_stay(tmp_path: Path) -> None:
    found = propose("noise", noisy_problem(tmp_path / "j")).schedule
    np.testing.assert_allclose(found.table.c[:3] / NOISY.c[:3], 0.9, atol=0.01)
    assert found.table.c[3] == 0
    assert (found.table.timesteps == NOISY.timesteps).all()
    assert (found.coefficients.c_x == 1).all()


def test_one_step_and_steps_without_noise_have_nothing_to_move(tmp_path: Path) -> None:
    assert propose("noise", problem_in(tmp_path / "quiet")).schedule == STOCK
    one = ScheduleTable(*[np.array([9.0])] * 7, 1.0)  # type: ignore[arg-type]
    single = replace(problem_in(tmp_path / "one"), stock=LearnedSchedule.stock(one), start=LearnedSchedule.stock(one))
    single.pictures.engine.scores = lambda job: Scored(Scores({"text_image": np.zeros(job.draws.sizes[job.batch])}))  # type: ignore
    assert propose("timesteps", single).pictures == 20
