"""Bootstrap intervals of paired differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % bootstrap interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def resamples(count: int, seed: int, number: int = RESAMPLES) -> np.ndarray:
    """Indices int [number, count] drawn with replacement; one set serves every metric, which keeps them paired."""
    return np.random.default_rng(seed).integers(count, size=(number, count))


def paired_difference(after: np.ndarray, before: np.ndarray, seed: int) -> Interval:
    """Mean of after - before, both [prompts] (or [prompts, seeds], then prompts are resampled whole)."""
    difference = (after - before).reshape(len(after), -1).mean(axis=1)
    return interval(lambda rows: float(difference[rows].mean()), len(difference), seed)


def interval(statistic: Callable[[np.ndarray], float], count: int, seed: int, number: int = RESAMPLES) -> Interval:
    """`statistic(rows)` on all `count` rows and its percentile interval over resamples of them."""
    values = [statistic(rows) for rows in resamples(count, seed, number)]
    return percentiles(statistic(np.arange(count)), np.array(values))


def percentiles(estimate: float, resampled: np.ndarray, shift: bool = True, tests: int = 1) -> Interval:
    """The percentile interval of an estimate whose values on resamples are `resampled`; of several `tests` at once each
    has the wider one that all together hold at LEVEL (Bonferroni).

    Rows that come twice shift some statistics (a Fréchet distance grows): the mean shift is taken off again. A ratio's
    values have no mean to speak of where its denominator comes near zero: theirs stay (`shift` False).
    """
    tail, apart = (1 - LEVEL) / 2 / tests, resampled.mean() - estimate if shift else 0.0
    low, high = np.quantile(resampled - apart, [tail, 1 - tail])
    return Interval(float(estimate), float(low), float(high))
