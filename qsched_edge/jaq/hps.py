"""HPSv2 (arXiv 2306.09341) as the text-image term: CLIP similarity by its ViT-H-14. Range -1..1, more is better.

The checkpoint (xswu/HPSv2, HPS_v2.1_compressed.pt, 3.9 GB) is the recipe's `hps` file or lies in the hub's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qsched_edge.errors import MetricError
from qsched_edge.jaq.clip import ClipModel
from qsched_edge.jaq.text_image import similarity

if TYPE_CHECKING:
    import torch

    from qsched_edge.jaq.judge import TermSettings

REPOSITORY, FILE, ARCHITECTURE = "xswu/HPSv2", "HPS_v2.1_compressed.pt", "ViT-H-14"


class HPS:
    """Cosine of the features of HPSv2's fine-tuned CLIP."""

    low, high = -1.0, 1.0

    def __init__(self, settings: TermSettings, device: str) -> None:
        self.clip = ClipModel.of_checkpoint(ARCHITECTURE, checkpoint(settings.hps), device)

    def __call__(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return similarity(self.clip, images, prompts)


def checkpoint(path: str) -> Path:
    """The file that was named, or the hub cache's; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    found = path or try_to_load_from_cache(REPOSITORY, FILE)
    if not isinstance(found, str) or not Path(found).is_file():
        raise MetricError(f"HPSv2 has no weights at {path or 'the hub cache'}: `hf download {REPOSITORY} {FILE}`")
    return Path(found)
