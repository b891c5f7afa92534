"""The judge: both terms of pictures, each chosen by name from a registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from qsched_edge.errors import MetricError, unknown_name
from qsched_edge.jaq.loss import Scores
from qsched_edge.lookup import lookup

if TYPE_CHECKING:
    import torch

TEXT_IMAGE = {
    "clip": "qsched_edge.jaq.text_image:Similarity",
    "hps": "qsched_edge.jaq.hps:HPS",
}
QUALITY = {
    "clip-iqa": "qsched_edge.jaq.quality:ClipIQA",
    "pyiqa": "qsched_edge.jaq.iqa:PyIQA",
}
LIBRARIES = ("pyiqa",)  # their metrics have names of their own


class Term(Protocol):
    """One number for each picture, more is better, between `low` and `high`."""

    low: float
    high: float

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """float32 [B, 3, H, W] in 0..1 and B prompts -> float32 [B], differentiable in the images."""
        ...


@dataclass(frozen=True)
class TermSettings:
    """Which metrics make JAQ. `scorer` is an open_clip folder; `hps` a checkpoint (or empty: the hub's cache);
    a quality metric of pyiqa is written "pyiqa:NAME"."""

    scorer: str = ""
    text_image: str = "clip"
    quality: str = "clip-iqa"
    quality_prompts: tuple[str, str] = ("Good photo.", "Bad photo.")
    hps: str = ""

    def folder(self) -> Path:
        if not self.scorer:
            raise MetricError("the recipe names no scorer: add scorer = FOLDER of an open_clip model")
        return Path(self.scorer)


def term_of(registry: dict[str, str], name: str, settings: TermSettings, device: str) -> Term:
    kind, colon, _ = name.partition(":")
    if kind not in registry:
        raise MetricError(unknown_name("metric", name, registry))
    if colon and kind not in LIBRARIES:
        raise MetricError(f"metric {name!r}: {kind} is one metric and takes no name after a colon: write {kind}")
    build: Callable[..., Term] = lookup(registry[kind])
    return build(settings, device)


class Judge:
    """Computes both raw terms of pictures in 0..1, on `device`, torch's name."""

    def __init__(self, settings: TermSettings, device: str = "cpu") -> None:
        self.settings, self.device = settings, device
        self.text_image = term_of(TEXT_IMAGE, settings.text_image, settings, device)
        self.quality = term_of(QUALITY, settings.quality, settings, device)

    def terms(self, images: torch.Tensor, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [B, 3, H, W] in 0..1 -> (TC, IQ), float32 [B] each; differentiable in the images."""
        return self.text_image(images, prompts), self.quality(images, prompts)

    def scores(self, images: np.ndarray, prompts: Sequence[str]) -> Scores:
        """The same for the sampler's float32 [B, 3, H, W] in -1..1; pictures or terms not finite give NaN."""
        import torch

        with torch.no_grad():
            unit = torch.from_numpy(np.clip(images / 2 + 0.5, 0, 1)).to(self.device)
            tc, iq = (t.double().cpu().numpy() for t in self.terms(unit, prompts))
        return Scores(tc, iq)
