"""Squared maximum mean discrepancy of feature sets, unbiased, with the kernel of KID (arXiv 1801.01401).

The kernel is (x.y / s + 1)^3, s the mean squared length of the target's features: KID's own where features have about
unit variance, and as curved as there where they have unit length. Pictures of one prompt are never paired with each
other, so that neither resamples with a prompt twice nor equal noise on both sides make sets look alike. It may fall
below zero: zero is what equal distributions give on average.
"""

from __future__ import annotations

import numpy as np

from qsched_edge.jaq.distances import SetDistance


class MmdDistance(SetDistance[np.ndarray]):
    """To reference pictures' features float32 [M, D], or where there are none to full precision's of the same
    prompts."""

    def resampled(self, features: np.ndarray, beside: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        """float64 [R]."""
        x = features.astype(np.float64)
        times = np.stack([np.bincount(row, minlength=len(x)) for row in rows]).astype(np.float64)
        if self.reference is None:
            assert beside is not None
            y = beside.astype(np.float64)
            scale = mean_square(y)
            pairs = blocks(x, x, scale) + blocks(y, y, scale) - blocks(x, y, scale) - blocks(y, x, scale)
            return among(pairs, times)
        y = self.reference.astype(np.float64)
        scale = mean_square(y)
        within = kernel(y, y, scale)
        own = (within.sum() - np.trace(within)) / (len(y) * (len(y) - 1))
        cross = blocks(x, y[:, None], scale).mean(axis=1)
        return among(blocks(x, x, scale), times) + own - 2 * (times @ cross) / times.sum(axis=1)


def mean_square(features: np.ndarray) -> float:
    return float((features**2).sum(axis=-1).mean())


def kernel(x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    """[N, D], [M, D] -> [N, M]."""
    return (x @ y.T / scale + 1) ** 3


def blocks(x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    """[P, S, D], [Q, T, D] -> [P, Q]: the kernel's mean over the noises of two prompts."""
    found = kernel(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), scale)
    return found.reshape(*x.shape[:2], *y.shape[:2]).mean(axis=(1, 3))


def among(pairs: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The mean of [P, P] over pairs of different prompts, prompt p taken times[r, p] times -> [R]; a resample that
    holds one prompt alone has no such pair and counts as all of them."""
    apart = pairs * (1 - np.eye(len(pairs)))
    total = np.einsum("rp,pq,rq->r", times, apart, times, optimize=True)
    count = times.sum(axis=1) ** 2 - (times**2).sum(axis=1)
    everything = apart.sum() / (len(pairs) * (len(pairs) - 1))
    return np.where(count > 0, total / np.maximum(count, 1), everything)
