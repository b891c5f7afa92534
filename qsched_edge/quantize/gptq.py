"""GPTQ (arXiv 2210.17323): each column's rounding error is made good by the columns that are still to come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qsched_edge.errors import QuantizeError
from qsched_edge.precision import Scheme
from qsched_edge.quantize.integers import QuantizedMatrix
from qsched_edge.quantize.moments import Moments
from qsched_edge.quantize.scale_search import least_squared_error

LAZY = 128  # columns whose updates of the rest are gathered into one product


def gptq(weight: np.ndarray, scheme: Scheme, moments: Moments | None = None) -> QuantizedMatrix:
    """float32 [N, K] -> integers that minimise tr(dW H dW^T) column by column; rows are independent of each other.

    Scales and zero points are those of `least_squared_error` with equal columns: errors move to other columns, so the
    diagonal of H would mislead. Columns go from the largest to the smallest H_kk (the paper's act_order); groups are
    of neighbours all the same, as their scales are known beforehand. Raises QuantizeError without moments.
    """
    if moments is None:
        raise QuantizeError("gptq needs the moments of every layer's inputs: use mse or rtn where nothing is observed")
    if moments.width != weight.shape[1]:
        raise QuantizeError(f"moments of {moments.width} inputs do not fit a weight of {weight.shape[1]} columns")
    searched = least_squared_error(weight, scheme)
    q, start = np.empty_like(searched.q), 0
    for factor in moments.factors:
        columns = start + factor.order
        q[:, columns] = rounded(weight, columns, factor.upper, searched)
        start += len(columns)
    return replace(searched, q=q)


def rounded(weight: np.ndarray, columns: np.ndarray, upper: np.ndarray, grid: QuantizedMatrix) -> np.ndarray:
    """uint8 [N, len(columns)]: `columns` of `weight` in their order on the scales of `grid`.

    `upper` is the upper factor of the inverse moments of these columns in this order.
    """
    left, top = weight[:, columns], 2**grid.bits - 1
    q = np.empty(left.shape, np.uint8)
    for first in range(0, len(columns), LAZY):
        last = min(first + LAZY, len(columns))
        errors = np.empty((len(left), last - first), np.float32)
        for j in range(first, last):
            group = columns[j] // grid.group_size
            scale, zero = grid.scale[:, group].astype(np.float32), grid.zero[:, group].astype(np.float32)
            steps = np.clip(np.rint(left[:, j] / scale) + zero, 0, top)
            q[:, j] = steps
            errors[:, j - first] = (left[:, j] - (steps - zero) * scale) / upper[j, j]
            left[:, j + 1 : last] -= np.outer(errors[:, j - first], upper[j, j + 1 : last])
        left[:, last:] -= errors @ upper[first:last, last:]
    return q
