"""What every search is given, a problem, and what comes out, a proposal.

A search is a function of a problem. It asks for the scores of candidates, as many as it likes; when the budget is spent
the next question raises BudgetSpent. It returns nothing: the best candidate whose score was asked for is the proposal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from qsched_runtime import Coefficients
from qsched_runtime.schedule import ScheduleTable

from qsched_edge.bundle.learned import LearnedSchedule, distance
from qsched_edge.calibrate.adjoint import extra_passes
from qsched_edge.calibrate.budget import Budget, BudgetSpent
from qsched_edge.calibrate.memo import Ledger
from qsched_edge.calibrate.pairs import MOMENTS
from qsched_edge.calibrate.pictures import Pictures
from qsched_edge.calibrate.registries import SEARCHES
from qsched_edge.calibrate.settings import WITHOUT_GRADIENT, Tuning
from qsched_edge.errors import RequestError
from qsched_edge.jaq.distribution import AnyLoss
from qsched_edge.jaq.loss import Loss, Scores
from qsched_edge.lookup import lookup
from qsched_edge.work.staging import digest


@dataclass(frozen=True)
class Point:
    """A candidate that was better than all before it: the passes spent when its score was known, and its fit."""

    passes: int
    fit: float
    schedule: LearnedSchedule


@dataclass(frozen=True)
class Proposal:
    """A search's best schedule with its mean loss on the fitting prompts, and what finding them took.

    `passes` are the network's evaluations for one picture and step; an output from memory is none. `pictures` were
    decoded and scored. `spent` says that the budget ended the search. `curve` starts at c = 1.
    """

    search: str
    schedule: LearnedSchedule
    fit: float
    passes: int
    pictures: int
    seconds: float
    spent: bool
    not_finite: int
    notes: dict[str, object]
    curve: tuple[Point, ...]


@dataclass
class Spending:
    """What one search has spent and learned so far; the fields are those of its `Proposal`."""

    ledger: Ledger
    passes: int = 0
    pictures: int = 0
    seconds: float = 0.0
    not_finite: int = 0
    known: dict[str, float] = field(default_factory=dict)  # the fit of every candidate, by its key
    curve: list[Point] = field(default_factory=list)
    notes: dict[str, object] = field(default_factory=dict)

    def spend(self, passes: int, pictures: int, seconds: float) -> None:
        self.passes, self.pictures, self.seconds = (
            self.passes + passes,
            self.pictures + pictures,
            self.seconds + seconds,
        )

    def enter(self, candidate: LearnedSchedule, fit: float) -> None:
        self.known[name_of(candidate)] = fit
        self.not_finite += not math.isfinite(fit)
        if not self.curve or fit > self.curve[-1].fit:
            self.curve.append(Point(self.passes, fit, candidate))


def name_of(candidate: LearnedSchedule) -> str:
    return digest(candidate.json())


@dataclass
class Problem:
    """Fitting pictures and a loss, the stock schedule, a budget, a random stream and where to start. `proximity` times
    the distance from the stock schedule is taken off every score.

    `retimed` gives the stock scheduler's table at other timesteps. `paid` is the proposal that `start` comes from, and
    what it took. `spending` says what has been spent.
    """

    pictures: Pictures
    loss: AnyLoss
    stock: LearnedSchedule
    latents: tuple[int, int, int]
    budget: Budget
    rng: np.random.Generator
    start: LearnedSchedule
    prediction: str
    retimed: Callable[[np.ndarray], ScheduleTable]
    tuning: Tuning = field(default_factory=Tuning)
    advance: Callable[[int], None] = lambda n: None
    proximity: float = 0.0
    paid: Proposal | None = None
    spending: Spending = field(init=False)

    def __post_init__(self) -> None:
        self.spending = Spending(Ledger(4 * math.prod(self.latents)))

    @property
    def steps(self) -> int:
        return len(self.stock)

    @property
    def picture_loss(self) -> Loss:
        """The loss, for what needs one of single pictures; RequestError for one of sets."""
        if not isinstance(self.loss, Loss):
            raise RequestError(f"a gradient follows single pictures: {WITHOUT_GRADIENT}")
        return self.loss

    def at(self, coefficients: Coefficients) -> LearnedSchedule:
        """Where the search starts, with other coefficients."""
        return replace(self.start, coefficients=coefficients)

    @property
    def channels(self) -> int:
        return self.latents[0]

    @property
    def batches(self) -> int:
        return len(self.pictures.draws.sizes)

    def score(self, candidate: LearnedSchedule) -> float:
        """Mean loss over the fitting prompts, more is better; -inf if a picture's terms are not finite."""
        return self.scores([candidate])[0]

    def scores(self, candidates: Sequence[LearnedSchedule]) -> list[float]:
        """Of several candidates, which an engine may spread over its workers. Raises BudgetSpent once the budget does
        not reach for the next one; those before it have been scored and count."""
        size = max(1, self.pictures.engine.workers)
        found = []
        for i in range(0, len(candidates), size):
            found += self._chunk(candidates[i : i + size])
        return found

    def _chunk(self, candidates: Sequence[LearnedSchedule]) -> list[float]:
        new = {name_of(c): c for c in candidates if name_of(c) not in self.spending.known}
        within: list[LearnedSchedule] = []
        costs: list[int] = []
        for candidate in new.values():
            cost = self._cost(candidate, range(self.batches))
            if self._too_much(sum(costs) + cost):
                break
            within.append(candidate)
            costs.append(cost)
        for candidate, cost, (scores, seconds) in zip(within, costs, self.pictures.scores(within), strict=True):
            self._spend(cost, scores.count, seconds)
            self.spending.enter(candidate, self._fit(candidate, scores))
        if len(within) < len(new):
            raise BudgetSpent
        return [self.spending.known[name_of(c)] for c in candidates]

    def _fit(self, candidate: LearnedSchedule, scores: Scores) -> float:
        if not scores.finite:
            return -math.inf
        far = self.proximity and distance(candidate, self.stock, self.retimed(candidate.table.timesteps))
        return self.loss.total(scores) - self.proximity * far

    def gradient(self, candidate: LearnedSchedule, batches: Sequence[int]) -> tuple[float, np.ndarray]:
        """(mean loss, its gradient float64 [3, steps, channels] in c_x, c_eps, bias) over some of the batches."""
        pictures = sum(self.pictures.draws.sizes[b] for b in batches)
        cost = self._cost(candidate, batches) + pictures * extra_passes(self.tuning.jacobian, self.steps)
        if self._too_much(cost):
            raise BudgetSpent
        value, gradient, seconds = self.pictures.gradient(candidate, batches, self.picture_loss, self.tuning.jacobian)
        self._spend(cost, pictures, seconds)
        return value, gradient

    def moments(self) -> np.ndarray:
        """Paired moments float64 [MOMENTS, steps, channels] of the first batch; both networks' passes are paid for."""
        cost = 2 * self.pictures.draws.sizes[0] * self.steps
        if self._too_much(cost):
            raise BudgetSpent
        moments, seconds = self.pictures.moments(0, self.stock)
        assert len(moments) == len(MOMENTS)
        self._spend(cost, 0, seconds)
        return moments

    def _cost(self, candidate: LearnedSchedule, batches: Sequence[int]) -> int:
        schedule = candidate.folded()
        return sum(self.spending.ledger.charge(b, self.pictures.draws.sizes[b], schedule) for b in batches)

    def _too_much(self, cost: int) -> bool:
        """Never for the first candidate, which is the stock schedule."""
        spent, most = self.spending, self.budget
        return bool(spent.curve) and (spent.passes + cost > most.passes or spent.seconds >= most.seconds)

    def _spend(self, passes: int, pictures: int, seconds: float) -> None:
        self.spending.spend(passes, pictures, seconds)
        self.advance(passes)


def propose(name: str, problem: Problem) -> Proposal:
    """Score the stock schedule, then run one search to its end or to the end of its budget."""
    spent, spending = False, problem.spending
    problem.score(problem.stock)
    if problem.paid:  # it has scored the stock schedule too
        spending.passes, spending.pictures, spending.seconds = (
            problem.paid.passes,
            problem.paid.pictures,
            problem.paid.seconds,
        )
    try:
        lookup(SEARCHES[name])(problem)
    except BudgetSpent:
        spent = True
    best = spending.curve[-1]
    return Proposal(
        name,
        best.schedule,
        best.fit,
        spending.passes,
        spending.pictures,
        spending.seconds,
        spent,
        spending.not_finite,
        spending.notes,
        tuple(spending.curve),
    )
