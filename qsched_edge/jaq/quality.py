"""IQ, image quality as CLIP-IQA (arXiv 2207.12396) has it: is the picture nearer to a good or to a bad description?

Range 0..1, more is better. The pair of descriptions belongs to the scorer; `{prompt}` in them stands for the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsched_edge.jaq.clip import ClipModel

if TYPE_CHECKING:
    import torch


def quality(clip: ClipModel, features: torch.Tensor, prompts: Sequence[str], pair: tuple[str, str]) -> torch.Tensor:
    """Image features [B, D] and B prompts -> float32 [B], the softmax share of the good description."""
    import torch

    good, bad = (torch.stack([clip.text_features(d.format(prompt=p)) for p in prompts]) for d in pair)
    margin = (features * (good - bad)).sum(dim=1)
    return torch.sigmoid(clip.logit_scale * margin)
