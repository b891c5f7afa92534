"""HPSv2 (arXiv 2306.09341) as the text-image term: CLIP similarity by its ViT-H-14. Range -1..1, more is better.

The checkpoint (xswu/HPSv2, HPS_v2.1_compressed.pt, 3.9 GB) is the recipe's `hps` file or lies in the hub's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qsched_edge.errors import MetricError
from qsched_edge.jaq.clip import ClipModel
from qsched_edge.jaq.terms import Seen
from qsched_edge.jaq.text_image import cosine_to_prompts

if TYPE_CHECKING:
    import torch

    from qsched_edge.jaq.settings import TermSettings

REPOSITORY, FILE, ARCHITECTURE = "xswu/HPSv2", "HPS_v2.1_compressed.pt", "ViT-H-14"


def hps(settings: TermSettings, device: str) -> Callable[[Seen], torch.Tensor]:
    """Cosine of the features of HPSv2's fine-tuned CLIP."""
    return partial(cosine_to_prompts, ClipModel.of_checkpoint(ARCHITECTURE, checkpoint(settings.hps), device))


def checkpoint(path: str) -> Path:
    """The file that was named, or the hub cache's; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    found = path or try_to_load_from_cache(REPOSITORY, FILE)
    if not isinstance(found, str) or not Path(found).is_file():
        raise MetricError(f"HPSv2 has no weights at {path or 'the hub cache'}: `hf download {REPOSITORY} {FILE}`")
    return Path(found)
