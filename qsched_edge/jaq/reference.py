"""The reference term: how near the last latents are to full precision's, from the same noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qsched_edge.jaq.terms import Seen

if TYPE_CHECKING:
    import torch

    from qsched_edge.jaq.settings import TermSettings


def reference(settings: TermSettings, device: str) -> Callable[[Seen], torch.Tensor]:
    return nearness


def nearness(seen: Seen) -> torch.Tensor:
    """Minus the mean squared difference, [B]; where no gradient is asked for, summed in numpy's order, which the
    published numbers have."""
    import torch

    assert seen.target is not None
    squares = ((seen.latents - seen.target) ** 2).reshape(len(seen.latents), -1)
    return -squares.mean(1) if squares.requires_grad else torch.from_numpy(-squares.cpu().numpy().mean(1))
