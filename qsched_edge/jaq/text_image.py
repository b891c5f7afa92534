"""TC, text-image similarity: cosine of the image's and its prompt's features. Range -1..1, more is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsched_edge.jaq.clip import ClipModel, clip_model

if TYPE_CHECKING:
    import torch

    from qsched_edge.jaq.judge import TermSettings


class Similarity:
    """Of the open_clip model in the recipe's `scorer` folder."""

    low, high = -1.0, 1.0

    def __init__(self, settings: TermSettings, device: str) -> None:
        self.clip: ClipModel = clip_model(settings.folder(), device)

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return similarity(self.clip, images, prompts)


def similarity(clip: ClipModel, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """Images float32 [B, 3, H, W] in 0..1 and B prompts -> float32 [B]."""
    import torch

    texts = torch.stack([clip.text_features(prompt) for prompt in prompts])
    return (clip.image_features(images) * texts).sum(dim=1)
