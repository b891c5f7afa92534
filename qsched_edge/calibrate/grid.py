"""The paper's search: two scalars on a grid, each a line from the searched value at step 1 to one at the last step."""

from __future__ import annotations

from itertools import product

import numpy as np
from qsched_runtime import Coefficients

from qsched_edge.calibrate.search import Problem, Proposal

LOW, HIGH = 0.8, 1.2  # the box of the reference code's script for SDXL-Turbo


def ramp(first: float, steps: int) -> np.ndarray:
    """linspace(first, 1, steps); one step is just `first`."""
    return np.linspace(first, 1.0, steps)


def search(problem: Problem) -> Proposal:
    """Score every point of the `points` x `points` grid (identity is one of them when `points` is odd)."""
    axis = np.linspace(LOW, HIGH, problem.points)
    candidates = [Coefficients(ramp(s, problem.steps), ramp(m, problem.steps)) for s, m in product(axis, axis)]
    scores = []
    with problem.progress("grid", len(candidates)) as advance:
        for candidate in candidates:
            scores.append(problem.fit_jaq(candidate))
            advance(1)
    best = int(np.argmax(scores))
    return Proposal("grid", candidates[best], scores[best], problem.passes_of(len(candidates)))
