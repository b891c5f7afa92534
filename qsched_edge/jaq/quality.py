"""IQ, image quality as CLIP-IQA (arXiv 2207.12396) has it: is the picture nearer to a good or to a bad description?

Range 0..1, more is better. The pair of descriptions belongs to the scorer; `{prompt}` in them stands for the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qsched_edge.jaq.clip import clip_model

if TYPE_CHECKING:
    import torch

    from qsched_edge.jaq.judge import TermSettings


class ClipIQA:
    """The softmax share of the good description, by the open_clip model in the recipe's `scorer` folder."""

    low, high = 0.0, 1.0

    def __init__(self, settings: TermSettings, device: str) -> None:
        self.clip, self.pair = clip_model(settings.folder(), device), settings.quality_prompts

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        import torch

        features = self.clip.image_features(images)
        good, bad = (torch.stack([self.clip.text_features(d.format(prompt=p)) for p in prompts]) for d in self.pair)
        return torch.sigmoid(self.clip.logit_scale * (features * (good - bad)).sum(dim=1))
