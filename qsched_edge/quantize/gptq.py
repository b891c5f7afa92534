"""GPTQ (arXiv 2210.17323): each column's rounding error is made good by the columns that are still to come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsched_edge.errors import QuantizeError
from qsched_edge.quantize.moments import Moments
from qsched_edge.quantize.scale_search import Grid, search
from qsched_edge.quantize.scheme import QuantizedMatrix, Scheme

LAZY = 256  # columns whose updates of the rest are gathered into one product; a multiple of every group size


def gptq(weight: np.ndarray, scheme: Scheme, moments: Moments | None = None) -> QuantizedMatrix:
    """float32 [N, K] -> integers that minimise tr(dW H dW^T) column by column; rows are independent of each other.

    A group's scales are searched when its first column is reached, on weights that already carry the earlier errors.
    Raises QuantizeError without moments.
    """
    if moments is None:
        raise QuantizeError("gptq needs the moments of every layer's inputs: use mse or rtn where nothing is observed")
    if moments.width != weight.shape[1]:
        raise QuantizeError(f"moments of {moments.width} inputs do not fit a weight of {weight.shape[1]} columns")
    state = State.of(weight, scheme)
    start = 0
    for factor in moments.factors:
        quantize_block(state, start, factor)
        start += len(factor)
    return state.matrix()


@dataclass(frozen=True)
class State:
    """The weights still to be rounded (they change) and what has been found: q [N, K]; scale, zero [N, groups]."""

    weight: np.ndarray
    scheme: Scheme
    g: int
    q: np.ndarray
    scale: np.ndarray
    zero: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray, scheme: Scheme) -> State:
        rows, width = weight.shape
        g = scheme.group_for(width)
        shape = (rows, -(-width // g))
        q = np.zeros(weight.shape, np.uint8)
        return cls(weight.copy(), scheme, g, q, np.zeros(shape, np.float16), np.zeros(shape, np.uint8))

    def matrix(self) -> QuantizedMatrix:
        return QuantizedMatrix(self.q, self.scale, self.zero, self.scheme.weight_bits, self.g)

    def open_group(self, column: int, importance: np.ndarray) -> Grid:
        """Search the scales of the group that begins at `column`; `importance` [g] is what errors in it will cost."""
        groups = self.weight[:, column : column + self.g]
        grid = search(groups, np.broadcast_to(importance, groups.shape), self.scheme)
        self.scale[:, column // self.g], self.zero[:, column // self.g] = grid.scale, grid.zero
        return grid


def quantize_block(state: State, start: int, factor: np.ndarray) -> None:
    """Round the columns from `start` on that `factor`, the upper factor of their inverse moments, covers."""
    importance = 1 / np.diag(factor) ** 2  # what remains of a column's error after the later ones have made it good
    for first in range(0, len(factor), LAZY):
        last = min(first + LAZY, len(factor))
        errors = np.empty((len(state.weight), last - first), np.float32)
        for j in range(first, last):
            if j % state.g == 0:
                grid = state.open_group(start + j, importance[j : j + state.g])
            errors[:, j - first] = round_column(state, start + j, grid) / factor[j, j]
            rest = state.weight[:, start + j + 1 : start + last]
            rest -= np.outer(errors[:, j - first], factor[j, j + 1 : last])
        later = state.weight[:, start + last : start + len(factor)]
        later -= errors @ factor[first:last, last:]


def round_column(state: State, column: int, grid: Grid) -> np.ndarray:
    """Round one column; returns the error, float32 [N]."""
    values = state.weight[:, column]
    q = grid.integers(values[:, None])[:, 0]
    state.q[:, column] = q
    return values - (q - grid.zero) * grid.scale.astype(np.float32)
