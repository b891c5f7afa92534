"""TC, text-image similarity: cosine of the image's and its prompt's features. Range -1..1, more is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsched_edge.jaq.clip import ClipModel

if TYPE_CHECKING:
    import torch


def text_image(clip: ClipModel, features: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """Image features [B, D] and B prompts -> float32 [B]."""
    import torch

    texts = torch.stack([clip.text_features(prompt) for prompt in prompts])
    return (features * texts).sum(dim=1)
