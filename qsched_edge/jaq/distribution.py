"""The loss `distribution`: how far the set of pictures is from reference pictures, by each of several encoders.

Each encoder's distance is the unbiased squared MMD of `mmd`. It counts from its value at c = 1 and in units of its own
uncertainty there, the standard deviation over resamples of the fitting prompts: the value itself may be near zero or
below, and an encoder that sees nothing but noise weighs no more than noise does. More is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsched_edge.errors import MetricError
from qsched_edge.intervals import Interval, percentiles, resamples
from qsched_edge.jaq.judges import Reading
from qsched_edge.jaq.loss import NO_SPREAD, Loss, Scores
from qsched_edge.jaq.mmd import MmdDistance


@dataclass(frozen=True)
class SetLoss:
    """`distances` to the reference pictures by encoder; `identity` are their values at c = 1 and `unit` the deviations
    there. `combine` is one of COMBINE (terms.py)."""

    distances: Mapping[str, MmdDistance]
    identity: Mapping[str, float]
    unit: Mapping[str, float]
    combine: str = "sum"

    @classmethod
    def against(cls, identity: Scores, references: Mapping[str, np.ndarray], combine: str = "sum") -> SetLoss:
        """`references` are the features float32 [M, D] of the reference pictures by encoder. Raises MetricError where
        an encoder tells no resample from another."""
        distances = {n: MmdDistance(Reading(f"MMD by {n}", n, False), y) for n, y in references.items()}
        found = {n: distance_to(distances[n], identity.features[n], 0) for n in distances}
        unit = {name: float(values[1:].std()) for name, values in found.items()}
        for name, deviation in unit.items():
            if not deviation > NO_SPREAD * max(1.0, abs(found[name][0])):  # not a number is refused too
                raise MetricError(f"encoder {name} sees no difference between pictures: use more prompts or another")
        return cls(distances, {name: float(values[0]) for name, values in found.items()}, unit, combine)

    def total(self, scores: Scores) -> float:
        """The gain over c = 1 on the fitting prompts, whose pictures `scores` must be of."""
        parts = [(self.identity[n] - self._whole(n, scores)) / self.unit[n] for n in self.distances]
        return float(self._combined(np.array(parts)))

    def _whole(self, name: str, scores: Scores) -> float:
        return float(distance_of(self.distances[name], scores.features[name], everything(scores.count))[0])

    def gain(self, after: Scores, before: Scores, seed: int) -> Interval:
        """Of one set of pictures over another of the same prompts, prompts resampled for both at once."""
        parts = [
            (distance_to(d, before.features[n], seed) - distance_to(d, after.features[n], seed)) / self.unit[n]
            for n, d in self.distances.items()
        ]
        gains = self._combined(np.stack(parts))
        return percentiles(gains[0], gains[1:])

    def _combined(self, parts: np.ndarray) -> np.ndarray:
        """Over the first axis, the encoders'."""
        return parts.min(axis=0) if self.combine == "worst" else parts.sum(axis=0)

    def json(self) -> dict[str, Any]:
        return {"encoders": {n: [self.identity[n], self.unit[n]] for n in self.distances}, "combine": self.combine}


AnyLoss = Loss | SetLoss  # what a search maximises: both have `total`, `gain` and `json`


def everything(count: int) -> np.ndarray:
    return np.arange(count)[None]


def distance_of(distance: MmdDistance, features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of the rows [R, P] of features [P, D], a picture for each prompt -> float64 [R]."""
    return distance.resampled(features[:, None], None, rows)


def distance_to(distance: MmdDistance, features: np.ndarray, seed: int) -> np.ndarray:
    """On all prompts, then on resamples of them: float64 [1 + resamples]."""
    count = len(features)
    return distance_of(distance, features, np.concatenate([everything(count), resamples(count, seed)]))
