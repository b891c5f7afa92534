"""IQ, image quality as CLIP-IQA (arXiv 2207.12396) has it: is the picture nearer to a good or to a bad description?

Range 0..1, more is better. The pair of descriptions belongs to the scorer; `{prompt}` in them stands for the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qsched_edge.jaq.clip import clip_model
from qsched_edge.jaq.terms import Seen

if TYPE_CHECKING:
    import torch

    from qsched_edge.jaq.settings import TermSettings


def clip_iqa(settings: TermSettings, device: str, what: str = "") -> Callable[[Seen], torch.Tensor]:
    """The softmax share of the good description, by the CLIP model called `what`, by default the scorer."""
    clip, pair = clip_model(settings.folder(what), device), settings.quality_prompts

    def share(seen: Seen) -> torch.Tensor:
        import torch

        features = clip.image_features(seen.images)
        good, bad = (torch.stack([clip.text_features(d.format(prompt=p)) for p in seen.prompts]) for d in pair)
        return torch.sigmoid(clip.logit_scale * (features * (good - bad)).sum(dim=1))

    return share
