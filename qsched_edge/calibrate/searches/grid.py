"""The paper's search: two scalars on a grid, each a line from the searched value at step 1 to one at the last step."""

from __future__ import annotations

from itertools import product

import numpy as np
from qsched_runtime import Coefficients

from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.searches.space import HIGH, LOW, line


def search(problem: Problem) -> None:
    """Score every point of the `points` x `points` grid (identity is one of them when `points` is odd)."""
    axis, steps = np.linspace(LOW, HIGH, problem.tuning.points), problem.steps
    lines = [Coefficients(line(s, 1.0, steps), line(m, 1.0, steps)) for s, m in product(axis, axis)]
    problem.scores([problem.at(c) for c in lines])
