"""A number for each step and latent channel, and a bias: 3 x steps x channels numbers, by the gradient alone."""

from __future__ import annotations

import numpy as np
from qsched_runtime import Coefficients

from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.searches.ascent import ascend
from qsched_edge.calibrate.searches.space import BIAS, HIGH, LOW, as_rows

BIAS_UNIT = 0.5  # a bias of 0.5 moves latents about as much as a coefficient that changes by one


def search(problem: Problem) -> None:
    """Adam from `start` on (c_x, c_eps, bias / BIAS_UNIT), so that one rate suits all."""
    width = (problem.steps, problem.channels)
    known = problem.start.coefficients
    columns = (known.c_x, known.c_eps, np.asarray(known.bias) / BIAS_UNIT)
    start = np.stack([np.broadcast_to(as_rows(c), width) for c in columns])
    low, high = (np.full_like(start, v) for v in (LOW, HIGH))
    low[2], high[2] = -BIAS / BIAS_UNIT, BIAS / BIAS_UNIT
    unit = np.array([1, 1, BIAS_UNIT])[:, None, None]
    ascend(problem, start, (low, high), lambda t: Coefficients(t[0], t[1], BIAS_UNIT * t[2]), lambda g: g * unit)
