"""The reference term: how near the last latents are to full precision's, from the same noise.

Range minus infinity to 0, more is better.
"""

from __future__ import annotations

from typing import Any


def reference(latents: Any, target: Any) -> Any:
    """Arrays or tensors [B, C, h, w] -> [B]: minus the mean squared difference."""
    return -((latents - target) ** 2).reshape(len(latents), -1).mean(1)
