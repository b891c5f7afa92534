"""The space of coefficients: its box, and vectors to coefficients and back."""

from __future__ import annotations

import numpy as np
from qsched_runtime import Coefficients

LOW, HIGH = 0.8, 1.2  # of c_x and c_eps: the box of the reference code's script for SDXL-Turbo
BIAS = 0.1  # of the bias, either way, in units of latents


def line(first: float, last: float, steps: int) -> np.ndarray:
    """float64 [steps] from `first` to `last`; one step is just `first`."""
    return np.linspace(first, last, steps)


def vector_of(coefficients: Coefficients) -> np.ndarray:
    """float64 [2 x steps]: c_x, then c_eps, one number for each step (a channel's mean where there are several)."""
    return np.concatenate([as_rows(c).mean(axis=1) for c in (coefficients.c_x, coefficients.c_eps)])


def from_vector(vector: np.ndarray) -> Coefficients:
    """The inverse of `vector_of` for scalars."""
    c_x, c_eps = np.split(np.asarray(vector, np.float64), 2)
    return Coefficients(c_x, c_eps)


def as_rows(column: np.ndarray) -> np.ndarray:
    """[steps] or [steps, channels] -> [steps, 1 or channels]."""
    return column.reshape(len(column), -1)


def clipped(coefficients: Coefficients) -> Coefficients:
    """Into the box."""
    c_x, c_eps = (narrow(np.clip(c, LOW, HIGH)) for c in (coefficients.c_x, coefficients.c_eps))
    return Coefficients(c_x, c_eps, narrow(np.clip(np.asarray(coefficients.bias), -BIAS, BIAS)))


def narrow(column: np.ndarray) -> np.ndarray:
    """[steps, 1] -> [steps]; others stay as they are."""
    return column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column


def at_bounds(coefficients: Coefficients) -> list[str]:
    """Names of the columns and steps (from 1) that lie on the box: a better value may lie outside."""
    found = []
    for name, low, high in (("c_x", LOW, HIGH), ("c_eps", LOW, HIGH), ("bias", -BIAS, BIAS)):
        for i, row in enumerate(as_rows(getattr(coefficients, name)), start=1):
            if (row <= low + 1e-9).any() or (row >= high - 1e-9).any():
                found.append(f"{name}[{i}]")
    return found
