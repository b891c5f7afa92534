"""Our search: all 2 x steps numbers along JAQ's gradient, which `adjoint` carries back to them."""

from __future__ import annotations

import numpy as np

from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.searches.ascent import ascend
from qsched_edge.calibrate.searches.gradient_check import gradient_quality
from qsched_edge.calibrate.searches.space import HIGH, LOW, from_vector, vector_of


def search(problem: Problem) -> None:
    """Adam from `start`; channels move together."""
    start = vector_of(problem.start)
    box = np.full_like(start, LOW), np.full_like(start, HIGH)
    moves = np.array(problem.tuning.moves)[:, None]
    if problem.tuning.check:
        problem.spending.notes["gradient"] = gradient_quality(problem)
    ascend(problem, start, box, from_vector, lambda g: (moves * g[:2].sum(axis=2)).ravel())
