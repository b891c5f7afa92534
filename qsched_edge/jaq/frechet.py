"""Fréchet distance between Gaussians fitted to features (arXiv 1706.08500), in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsched_edge.jaq.distances import FEW, SetDistance, flat


@dataclass(frozen=True)
class Gaussian:
    """mean float64 [D], covariance float64 [D, D]."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Fitted to features [N, D] (covariance with N - 1)."""
        wide = features.astype(np.float64)
        return cls(wide.mean(axis=0), np.cov(wide, rowvar=False))


def square_root(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric positive semi-definite matrix; eigenvalues below zero are rounding and count as zero."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


class Frechet:
    """Distance of feature sets to one reference: |m - m_r|^2 + tr(S + S_r - 2 (S_r^1/2 S S_r^1/2)^1/2)."""

    def __init__(self, reference: Gaussian) -> None:
        self.reference, self.root = reference, square_root(reference.covariance)

    def __call__(self, features: np.ndarray) -> float:
        """features [N, D] -> distance >= 0, up to rounding."""
        g = Gaussian.of(features)
        product = np.linalg.eigvalsh(self.root @ g.covariance @ self.root)
        cross = np.sqrt(np.clip(product, 0, None)).sum()
        offset = ((g.mean - self.reference.mean) ** 2).sum()
        return float(offset + np.trace(g.covariance) + np.trace(self.reference.covariance) - 2 * cross)


class FrechetDistance(SetDistance[Frechet]):
    """To reference pictures, or where there are none to full precision's; of the first FEW rows."""

    def resampled(self, features: np.ndarray, beside: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        """float64 [min(R, FEW)]."""
        frechet = self.reference or Frechet(Gaussian.of(flat(beside)))
        return np.array([frechet(flat(features[some])) for some in rows[:FEW]])
