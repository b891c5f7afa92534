"""The judge: all terms of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qsched_edge.jaq.loss import Scores
from qsched_edge.jaq.settings import TermSettings
from qsched_edge.jaq.terms import TERMS, Seen
from qsched_edge.lookup import lookup

if TYPE_CHECKING:
    import torch

    from qsched_edge.jaq.metrics import Measure


class Judge:
    """Computes the raw terms of pictures, on `device`, torch's name."""

    def __init__(self, settings: TermSettings, device: str = "cpu") -> None:
        self.device = device
        named = [n for n in TERMS if getattr(settings, n, True)]  # an empty metric is not measured
        self.measures: dict[str, Measure] = {n: lookup(TERMS[n].maker)(settings, device) for n in named}

    def terms(self, seen: Seen) -> dict[str, torch.Tensor]:
        """Name -> float [B]; those that compare are left out where there is nothing to compare with."""
        here = [n for n in self.measures if seen.target is not None or not TERMS[n].compares]
        return {name: self.measures[name](seen) for name in here}

    def scores(
        self, images: np.ndarray, prompts: Sequence[str], latents: np.ndarray, target: np.ndarray | None = None
    ) -> Scores:
        """The same for the sampler's images float32 [B, 3, H, W] in -1..1 and latents [B, C, h, w]; pictures or terms
        that are not finite give NaN."""
        return self.of_unit(np.clip(images / 2 + 0.5, 0, 1), prompts, latents, target)

    def of_unit(
        self, images: np.ndarray, prompts: Sequence[str], latents: np.ndarray, target: np.ndarray | None = None
    ) -> Scores:
        """The same for images in 0..1."""
        import torch

        with torch.no_grad():
            unit, last = (torch.from_numpy(v).to(self.device) for v in (images, latents))
            goal = None if target is None else torch.from_numpy(target).to(self.device)
            found = self.terms(Seen(unit, prompts, last.double(), goal))
            return Scores({name: values.double().cpu().numpy() for name, values in found.items()})

    def ends(self, name: str) -> tuple[float, float]:
        """The range of the term: its metric's own, or the term's."""
        made, term = self.measures[name], TERMS[name]
        return getattr(made, "low", term.low), getattr(made, "high", term.high)
