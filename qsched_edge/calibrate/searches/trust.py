"""Derivative-free minimisation in a box: scipy's COBYQA, a trust region over quadratic models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qsched_edge.calibrate.searches.space import HIGH, LOW


def maximise(
    score: Callable[[np.ndarray], float], start: np.ndarray, radius: float, precision: float, questions: int
) -> np.ndarray:
    """The best vector of the box LOW..HIGH that at most `questions` scores find, from `start` in steps of `radius`
    that shrink to `precision`. Scores of -inf are taken for very bad ones."""
    from scipy.optimize import Bounds, minimize

    asked: list[tuple[float, np.ndarray]] = []

    def cost(x: np.ndarray) -> float:
        value = score(np.clip(x, LOW, HIGH))
        asked.append((value, np.clip(x, LOW, HIGH)))
        return -value if np.isfinite(value) else 1e6

    options = {"initial_tr_radius": radius, "final_tr_radius": precision, "maxfev": questions}
    minimize(cost, start, method="COBYQA", bounds=Bounds(LOW, HIGH), options=options)
    return max(asked, key=lambda pair: pair[0])[1]
