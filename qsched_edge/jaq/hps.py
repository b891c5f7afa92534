"""HPSv2 (arXiv 2306.09341), human preference for a picture of a prompt: CLIP similarity by its own ViT-H-14.

It serves as the text-image term or as the quality term. Range -1..1, more is better. The checkpoint (xswu/HPSv2,
HPS_v2.1_compressed.pt, 3.9 GB) is the file that is named, or comes from the hub.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from qsched_edge.jaq.clip import ClipModel
from qsched_edge.jaq.scorers import HPS, hps_checkpoint
from qsched_edge.jaq.terms import Seen
from qsched_edge.jaq.text_image import cosine_to_prompts

if TYPE_CHECKING:
    import torch

    from qsched_edge.jaq.settings import TermSettings

ARCHITECTURE = "ViT-H-14"


def hps(settings: TermSettings, device: str, what: str = "") -> Callable[[Seen], torch.Tensor]:
    """Cosine of the features of HPSv2's fine-tuned CLIP; the checkpoint `what`, by default the settings' or the
    hub's."""
    file = hps_checkpoint(str(settings.path(what or settings.hps or HPS)), offline=True)
    return partial(cosine_to_prompts, hps_model(file, device))


@lru_cache(maxsize=1)
def hps_model(file: Path, device: str) -> ClipModel:
    """One model for both terms."""
    return ClipModel.of_checkpoint(ARCHITECTURE, file, device)
