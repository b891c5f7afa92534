"""All 2 x steps numbers free, step by step from the last to the first, two numbers at a time by scipy's COBYQA.

The last step's two numbers cost no network pass at all, since every output before it is remembered; those of the step
before it cost one for each picture, and so on. That is why the sweep begins at the end, where c matters most too.
"""

from __future__ import annotations

import numpy as np

from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.searches.space import from_vector, vector_of
from qsched_edge.calibrate.searches.trust import maximise

SWEEPS = ((0.04, 0.01, 10), (0.02, 0.004, 8))  # radius, precision, questions for each pair


def search(problem: Problem) -> None:
    """Two sweeps from `start`, the second finer; a third gained next to nothing."""
    best = vector_of(problem.start.coefficients)
    problem.score(problem.at(from_vector(best)))
    for radius, precision, questions in SWEEPS:
        for i in reversed(range(problem.steps)):
            pair = np.array([i, problem.steps + i])

            def score(values: np.ndarray, pair: np.ndarray = pair, rest: np.ndarray = best) -> float:
                vector = rest.copy()
                vector[pair] = values
                return problem.score(problem.at(from_vector(vector)))

            best = best.copy()
            best[pair] = maximise(score, best[pair], radius, precision, questions)
