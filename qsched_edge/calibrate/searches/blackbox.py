"""All 2 x steps numbers by CMA-ES (the library cma), which sees nothing but scores."""

from __future__ import annotations

import numpy as np

from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.searches.space import HIGH, LOW, from_vector, vector_of

SIGMA, GENERATIONS = 0.03, 60


def search(problem: Problem) -> None:
    """Generations of candidates around `start`; a generation can be spread over workers."""
    from cma import CMAEvolutionStrategy

    options = {
        "bounds": [LOW, HIGH], "verbose": -9, "maxiter": GENERATIONS, "seed": np.nan,
        "randn": lambda *shape: problem.rng.standard_normal(shape),
    }  # fmt: skip
    strategy = CMAEvolutionStrategy(vector_of(problem.start.coefficients), SIGMA, options)
    while not strategy.stop():
        vectors = strategy.ask()
        scores = problem.scores([problem.at(from_vector(v)) for v in vectors])
        strategy.tell(vectors, [-s if np.isfinite(s) else 1e6 for s in scores])
