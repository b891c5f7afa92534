"""JAQ = TC + k IQ (arXiv 2509.01624) and its relatives: weighted terms in units of their spread at c = 1.

More is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qsched_edge.errors import MetricError, unknown_name
from qsched_edge.intervals import Interval, paired_difference
from qsched_edge.jaq.terms import TERMS, losses

NO_SPREAD = 1e-6  # a spread this small, in units of the term's largest value, is rounding and not a difference


@dataclass(frozen=True)
class Scores:
    """The raw terms of a batch of pictures by name, float64 [B] each; those that compare with full precision only
    where it was drawn too. `features` are what the encoders of a loss over sets see, float32 [B, D] by encoder."""

    values: Mapping[str, np.ndarray]
    features: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]

    @property
    def count(self) -> int:
        """Pictures."""
        return len(next(iter({**self.values, **self.features}.values())))

    @property
    def finite(self) -> bool:
        return all(np.isfinite(v).all() for v in (*self.values.values(), *self.features.values()))


def weights_of(loss: str, k: float) -> Mapping[str, float]:
    """The weights of the terms in the loss of that name; raises MetricError for an unknown one."""
    known = losses(k)
    if loss not in known:
        raise MetricError(unknown_name("loss", loss, known))
    return known[loss]


@dataclass(frozen=True)
class Loss:
    """sum of weight (t - mean) / deviation over the terms, mean and deviation taken over the pictures of c = 1.

    So a loss is zero on average at c = 1 and each term moves in units of its own spread between pictures: no term's
    scale decides what k means. Only terms whose weight is not zero are held.
    """

    weights: Mapping[str, float]
    mean: Mapping[str, float]
    deviation: Mapping[str, float]

    @classmethod
    def against(cls, identity: Scores, weights: Mapping[str, float]) -> Loss:
        """Raises MetricError if a term that counts is missing, not finite or the same for all pictures."""
        counting = {name: weight for name, weight in weights.items() if weight}
        for name in counting:
            if TERMS[name].compares and name not in identity.values:
                raise MetricError(f"the term {name} needs the 32-bit bundle: give --reference")
        for name in counting:
            check_spread(name, identity[name])
        mean = {name: float(identity[name].mean()) for name in counting}
        return cls(counting, mean, {name: float(identity[name].std()) for name in counting})

    def __call__(self, terms: Mapping[str, Any]) -> Any:
        """Arrays or tensors of the raw terms -> the loss of each picture; terms of weight zero are not looked at."""
        total: Any = 0.0
        for name, weight in self.weights.items():
            total = total + weight * (terms[name] - self.mean[name]) / self.deviation[name]
        return total

    def of(self, scores: Scores) -> np.ndarray:
        """float64 [B]."""
        return np.asarray(self(scores.values))

    def total(self, scores: Scores) -> float:
        """Its mean over the pictures."""
        return float(self.of(scores).mean())

    def gain(self, after: Scores, before: Scores, seed: int) -> Interval:
        """Of one set of pictures over another of the same prompts, picture by picture."""
        return paired_difference(self.of(after), self.of(before), seed)

    def json(self) -> dict[str, Any]:
        """Weights, means and deviations as lists in the order of TERMS."""
        columns = (("weights", self.weights, 0.0), ("mean", self.mean, 0.0), ("deviation", self.deviation, 1.0))
        return {title: [column.get(name, default) for name in TERMS] for title, column, default in columns}


def check_spread(name: str, values: np.ndarray) -> None:
    """Raises MetricError for a term that tells no picture from another."""
    mean, deviation = float(values.mean()), float(values.std())
    if not np.isfinite(values).all() or deviation <= NO_SPREAD * np.abs(values).max():
        raise MetricError(
            f"{name} cannot be normalised: over {len(values)} pictures at c = 1 it has mean {mean:.4g} and "
            f"deviation {deviation:.4g}; use more prompts or another metric"
        )
