"""Adam on mini-batches of prompts, along the loss's gradient in the coefficients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from qsched_runtime import Coefficients

from qsched_edge.calibrate.search import Problem

RATE, MOMENTUM, SCALE = 0.02, 0.8, 0.95  # Adam's, on values near one


def ascend(
    problem: Problem,
    start: np.ndarray,
    box: tuple[np.ndarray, np.ndarray],
    coefficients_of: Callable[[np.ndarray], Coefficients],
    gradient_of: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Follow the gradient from `start` for the tuning's `iterations`, one batch of prompts each.

    `gradient_of` turns the gradient [3, steps, channels] into one shaped as `start`. After every pass over the prompts
    the mean of its iterates is scored as it is: the noise of single batches cancels in it.
    """
    theta, first, second = start, np.zeros_like(start), np.zeros_like(start)
    since: list[np.ndarray] = []
    total = problem.tuning.iterations
    order = [b for _ in range(total // problem.batches + 1) for b in problem.rng.permutation(problem.batches)]
    for i in range(1, total + 1):
        _, raw = problem.gradient(problem.at(coefficients_of(theta)), [int(order[i - 1])])
        gradient = gradient_of(raw)
        first = MOMENTUM * first + (1 - MOMENTUM) * gradient
        second = SCALE * second + (1 - SCALE) * gradient**2
        step = first / (1 - MOMENTUM**i) / (np.sqrt(second / (1 - SCALE**i)) + 1e-12)
        theta = np.clip(theta + RATE * (1 - (i - 1) / total) * step, *box)
        since.append(theta)
        if i % problem.batches == 0 or i == total:
            problem.score(problem.at(coefficients_of(np.mean(since, axis=0))))
            since = []
