"""TC, text-image similarity: cosine of the image's and its prompt's features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from qsched_edge.jaq.clip import ClipModel, clip_model
from qsched_edge.jaq.terms import Seen

if TYPE_CHECKING:
    import torch

    from qsched_edge.jaq.settings import TermSettings


def similarity(settings: TermSettings, device: str, what: str = "") -> Callable[[Seen], torch.Tensor]:
    """By the CLIP model called `what`, by default the scorer."""
    return partial(cosine_to_prompts, clip_model(settings.folder(what), device))


def cosine_to_prompts(clip: ClipModel, seen: Seen) -> torch.Tensor:
    """float32 [B]."""
    import torch

    texts = torch.stack([clip.text_features(prompt) for prompt in seen.prompts])
    return (clip.image_features(seen.images) * texts).sum(dim=1)
