"""JAQ = TC + k IQ (arXiv 2509.01624), each term normalised against the identity coefficients. More is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qsched_edge.errors import MetricError
from qsched_edge.jaq.clip import ClipModel
from qsched_edge.jaq.quality import quality
from qsched_edge.jaq.text_image import text_image

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Scores:
    """The raw terms of a batch of pictures, float64 [B] each."""

    text_image: np.ndarray
    quality: np.ndarray


@dataclass(frozen=True)
class JAQ:
    """The formula. A term t counts as (t - mean) / deviation, both taken over the pictures of c = 1.

    So JAQ is zero on average at c = 1 and each term moves in units of its own spread between pictures: neither
    term's scale decides what k means.
    """

    k: float
    mean: tuple[float, float]
    deviation: tuple[float, float]

    @classmethod
    def against(cls, identity: Scores, k: float) -> JAQ:
        terms = (identity.text_image, identity.quality)
        deviation = tuple(float(t.std()) for t in terms)
        if not all(np.isfinite(t).all() for t in terms) or min(deviation) <= 0:
            raise MetricError(f"JAQ cannot be normalised: the terms at c = 1 deviate by {deviation}; use more prompts")
        return cls(k, tuple(float(t.mean()) for t in terms), deviation)  # type: ignore[arg-type]

    def __call__(self, text_image, quality):  # type: ignore[no-untyped-def]
        """Arrays or tensors of the two raw terms -> JAQ of each picture."""
        tc = (text_image - self.mean[0]) / self.deviation[0]
        iq = (quality - self.mean[1]) / self.deviation[1]
        return tc + self.k * iq

    def of(self, scores: Scores) -> np.ndarray:
        return np.asarray(self(scores.text_image, scores.quality))


class Judge:
    """Computes both raw terms of pictures in 0..1."""

    def __init__(self, clip: ClipModel, pair: tuple[str, str]) -> None:
        self.clip, self.pair = clip, pair

    def terms(self, images: torch.Tensor, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [B, 3, H, W] in 0..1 -> (TC, IQ), float32 [B] each; differentiable in the images."""
        features = self.clip.image_features(images)
        return text_image(self.clip, features, prompts), quality(self.clip, features, prompts, self.pair)

    def scores(self, images: np.ndarray, prompts: Sequence[str]) -> Scores:
        """The same for the sampler's float32 [B, 3, H, W] in -1..1; raises MetricError for a score not finite."""
        import torch

        with torch.no_grad():
            unit = torch.from_numpy(np.clip(images / 2 + 0.5, 0, 1))
            tc, iq = (t.double().numpy() for t in self.terms(unit, prompts))
        if not (np.isfinite(tc).all() and np.isfinite(iq).all()):
            raise MetricError("a JAQ term is not finite: the pictures or the scorer are broken")
        return Scores(tc, iq)
