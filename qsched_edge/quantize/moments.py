"""What calibrated methods know of a layer: the second moments of its inputs on the sampler's trajectory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

DAMPING = 0.01  # of the mean diagonal, as in GPTQ's reference code: inputs that never vary must not divide by zero


@dataclass(frozen=True)
class Factor:
    """A block's columns, largest moment first: `order` int [K]; `upper` float32 [K, K], upper triangular with
    upper^T upper = (damped block in that order)^-1."""

    order: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True)
class Moments:
    """E[x x^T] over all inputs x [K] of a layer (columns of im2col for a convolution), as diagonal blocks.

    `blocks` are float32, square and cover the K columns in order; what lies outside them counts as zero. Most layers
    have one block; only those whose matrix would not fit the memory limit have more.
    """

    blocks: tuple[np.ndarray, ...]

    @property
    def width(self) -> int:
        return sum(len(block) for block in self.blocks)

    @cached_property
    def importance(self) -> np.ndarray:
        """float32 [K], positive: the damped diagonal, what a squared error in each column costs on its own."""
        diagonal = np.concatenate([np.diag(block) for block in self.blocks]).astype(np.float32)
        return diagonal + damping(diagonal)

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """One for each block."""
        orders = [np.argsort(-np.diag(block), kind="stable") for block in self.blocks]
        return tuple(
            Factor(order, upper_factor_of_inverse(block[np.ix_(order, order)]))
            for block, order in zip(self.blocks, orders, strict=True)
        )


def damping(diagonal: np.ndarray) -> float:
    """What is added to each element of a diagonal; one where the layer has seen nothing but zeros."""
    return float(DAMPING * diagonal.mean(dtype=np.float64)) or 1.0


def upper_factor_of_inverse(matrix: np.ndarray) -> np.ndarray:
    """Upper triangular U float32 [K, K] with U^T U = (matrix + damping I)^-1, computed in float64.

    With P reversing the order and P H P = L L^T, the inverse is (P L^-1 P)^T (P L^-1 P): one factorization, and the
    inverse itself is never formed.
    """
    from scipy.linalg import cholesky, lapack

    damped = matrix[::-1, ::-1].astype(np.float64)
    damped[np.diag_indices_from(damped)] += damping(np.diag(matrix))
    lower = cholesky(damped, lower=True, overwrite_a=True, check_finite=False)
    inverse, _ = lapack.dtrtri(lower, lower=1)
    return np.ascontiguousarray(inverse[::-1, ::-1], np.float32)


def output_error(difference: np.ndarray, moments: Moments) -> float:
    """tr(D H D^T) = E|D x|^2 for a difference of weights D [N, K]: the layer's mean squared output error."""
    total, start = 0.0, 0
    for block in moments.blocks:
        part = difference[:, start : start + len(block)]
        total += float(np.einsum("nk,nk->", part @ block, part, dtype=np.float64))
        start += len(block)
    return total
