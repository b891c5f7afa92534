"""A number for each step and latent channel, and a bias: 3 x steps x channels numbers, by the gradient alone."""

from __future__ import annotations

import numpy as np
from qsched_runtime import Coefficients

from qsched_edge.calibrate.ascent import ascend
from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.space import BIAS, HIGH, LOW, as_rows
from qsched_edge.errors import RequestError

BIAS_UNIT = 0.5  # a bias of 0.5 moves latents about as much as a coefficient that changes by one


def search(problem: Problem) -> None:
    """Adam from `start` on (c_x, c_eps, bias / BIAS_UNIT), so that one rate suits all."""
    if problem.tuning.jacobian == "forward":
        raise RequestError("--jacobian forward has no gradients of single channels: use none or symmetric")
    width = (problem.steps, problem.channels)
    columns = (problem.start.c_x, problem.start.c_eps, np.asarray(problem.start.bias) / BIAS_UNIT)
    start = np.stack([np.broadcast_to(as_rows(c), width) for c in columns])
    limit = BIAS / BIAS_UNIT
    box = tuple(
        np.broadcast_to(np.array(v)[:, None, None], start.shape) for v in ([LOW] * 2 + [-limit], [HIGH] * 2 + [limit])
    )
    unit = np.array([1, 1, BIAS_UNIT])[:, None, None]
    ascend(problem, start, box, lambda t: Coefficients(t[0], t[1], BIAS_UNIT * t[2]), lambda g: g * unit)
