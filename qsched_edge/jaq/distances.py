"""What distances between sets of pictures share: their target, and how many resamples the costly ones take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from qsched_edge.jaq.judges import Reading

FEW = 1 + 200  # all prompts and some resamples: for what takes an eigenvalue decomposition or a sort each
T = TypeVar("T")


@dataclass(frozen=True)
class SetDistance(Generic[T]):
    """To `reference`, what is known of reference pictures, or where there are none to full precision's pictures of the
    same prompts."""

    reading: Reading
    reference: T | None = None

    @property
    def needs_beside(self) -> bool:
        return self.reference is None


def flat(features: np.ndarray | None) -> np.ndarray:
    """[P, S, D] -> [P S, D]."""
    assert features is not None
    return features.reshape(-1, features.shape[-1])
