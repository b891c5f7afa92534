"""How good the gradient is: compared with finite differences of the true loss, and said in the record."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.calibrate.memo import Ledger
from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.searches.space import from_vector

DIFFERENCE = 0.01  # of a coefficient, either way


def gradient_quality(problem: Problem) -> dict[str, Any]:
    """Cosines of the gradient in (c_x, c_eps) with central differences at the stock schedule on the first batch, for
    each step's pair and for the whole vector. The passes of the check are counted here and charged to no search."""
    stock, steps = problem.stock, problem.steps
    first = replace(problem.pictures, draws=problem.pictures.draws.batches[0])
    _, raw, _ = first.gradient(stock, [0], problem.picture_loss, problem.tuning.jacobian)
    found = raw[:2].sum(axis=2)
    moved = [
        replace(stock, coefficients=from_vector(1 + sign * DIFFERENCE * row))
        for row in np.eye(2 * steps)
        for sign in (1, -1)
    ]
    losses = [problem.picture_loss.of(scores).mean() for scores, _ in first.scores(moved)]
    true = np.subtract(losses[::2], losses[1::2]).reshape(2, steps) / (2 * DIFFERENCE)
    return {
        "jacobian": problem.tuning.jacobian,
        "cosine": cosine(found.ravel(), true.ravel()),
        "cosine_per_step": [cosine(found[:, i], true[:, i]) for i in range(steps)],
        "length_ratio_per_step": [ratio(found[:, i], true[:, i]) for i in range(steps)],
        "check_passes": passes_of([stock, *moved], problem),
    }


def passes_of(candidates: list[LearnedSchedule], problem: Problem) -> int:
    ledger = Ledger(problem.spending.ledger.bytes_each)
    return sum(ledger.charge(0, problem.pictures.draws.sizes[0], c.folded()) for c in candidates)


def cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """None where one of them is zero or not finite."""
    return quotient(float(a @ b), float(np.linalg.norm(a) * np.linalg.norm(b)))


def ratio(a: np.ndarray, b: np.ndarray) -> float | None:
    """|a| / |b|, None where b is zero or one of them is not finite."""
    return quotient(float(np.linalg.norm(a)), float(np.linalg.norm(b)))


def quotient(a: float, b: float) -> float | None:
    return a / b if b and math.isfinite(a / b) else None
