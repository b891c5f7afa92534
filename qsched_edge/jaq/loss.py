"""JAQ = TC + k IQ (arXiv 2509.01624) and its relatives: weighted terms in units of their spread at c = 1.

More is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsched_edge.errors import MetricError, unknown_name
from qsched_edge.jaq.terms import TERMS

COLLAPSED = 1e-6  # a spread this small, in units of the term's largest value, is rounding and not a difference


@dataclass(frozen=True)
class Scores:
    """The raw terms of a batch of pictures, float64 [B] each; `reference` only where full precision was drawn too."""

    text_image: np.ndarray
    quality: np.ndarray
    reference: np.ndarray | None = None

    @property
    def finite(self) -> bool:
        return all(np.isfinite(getattr(self, name)).all() for name in TERMS if getattr(self, name) is not None)


def weights_of(loss: str, k: float) -> tuple[float, float, float]:
    """The weights of TERMS in the loss of that name; raises MetricError for an unknown one."""
    known = {
        "jaq": (1.0, k, 0.0),
        "text-image": (1.0, 0.0, 0.0),
        "quality": (0.0, 1.0, 0.0),
        "reference": (0.0, 0.0, 1.0),
    }
    if loss not in known:
        raise MetricError(unknown_name("loss", loss, known))
    return known[loss]


@dataclass(frozen=True)
class Loss:
    """sum of weight (t - mean) / deviation over the terms, mean and deviation taken over the pictures of c = 1.

    So a loss is zero on average at c = 1 and each term moves in units of its own spread between pictures: no term's
    scale decides what k means. With the weights (1, k, 0) this is JAQ.
    """

    weights: tuple[float, float, float]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]

    @classmethod
    def against(cls, identity: Scores, weights: tuple[float, float, float]) -> Loss:
        """Raises MetricError if a term that counts is missing, not finite or the same for all pictures."""
        means, deviations = [], []
        for name, weight in zip(TERMS, weights, strict=True):
            values = getattr(identity, name)
            if values is None or not weight:
                means.append(0.0)
                deviations.append(1.0)
                continue
            mean, deviation = float(values.mean()), float(values.std())
            if not np.isfinite(values).all() or deviation <= COLLAPSED * np.abs(values).max():
                raise MetricError(
                    f"{name} cannot be normalised: over {len(values)} pictures at c = 1 it has mean {mean:.4g} and "
                    f"deviation {deviation:.4g}; use more prompts or another metric"
                )
            means.append(mean)
            deviations.append(deviation)
        if weights[2] and identity.reference is None:
            raise MetricError("the loss 'reference' needs the 32-bit bundle: give --reference")
        return cls(weights, tuple(means), tuple(deviations))  # type: ignore[arg-type]

    def __call__(self, text_image, quality, reference=None):  # type: ignore[no-untyped-def]
        """Arrays or tensors of the raw terms -> the loss of each picture; terms of weight zero are not looked at."""
        total = 0.0
        for t, w, m, d in zip((text_image, quality, reference), self.weights, self.mean, self.deviation, strict=True):
            if w:
                total = total + w * (t - m) / d
        return total

    def of(self, scores: Scores) -> np.ndarray:
        """float64 [B]."""
        return np.asarray(self(scores.text_image, scores.quality, scores.reference))
