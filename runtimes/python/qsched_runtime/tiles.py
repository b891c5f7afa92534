"""Large pictures decoded in overlapping tiles, blended where they meet: memory grows with the tile, not the picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

OVERLAP = 4  # a tile shares this part of its side with the next one, as in diffusers


def decoded_in_tiles(
    decode: Callable[[np.ndarray], np.ndarray], latents: np.ndarray, tile: int, pixels_per_latent: int
) -> np.ndarray:
    """float32 [B, C, h, w] -> float32 [B, 3, H, W] by tiles of `tile` latents a side.

    Each tile counts fully in its middle and less towards an edge that it shares. Where a decoder looks further than the
    overlap, or takes means over the whole picture as group norms do, the result differs slightly from decoding at once.
    """
    h, w = latents.shape[2:]
    factor = pixels_per_latent
    total: np.ndarray | None = None
    weight = np.zeros((h * factor, w * factor), np.float32)
    rows, columns = starts(h, tile), starts(w, tile)
    for top in rows:
        for left in columns:
            part = decode(np.ascontiguousarray(latents[:, :, top : top + tile, left : left + tile]))
            if total is None:
                total = np.zeros((*part.shape[:2], *weight.shape), np.float32)
            here = (slice(top * factor, (top + tile) * factor), slice(left * factor, (left + tile) * factor))
            share = ramp(part.shape[2], tile * factor, top > 0, top < rows[-1])[:, None]
            share = share * ramp(part.shape[3], tile * factor, left > 0, left < columns[-1])
            total[:, :, here[0], here[1]] += part * share
            weight[here] += share
    assert total is not None
    return total / weight


def starts(length: int, tile: int) -> list[int]:
    """Where tiles begin; the last one ends with the picture."""
    step = max(1, tile - tile // OVERLAP)
    return [*range(0, max(length - tile, 0), step), max(length - tile, 0)]


def ramp(size: int, tile: int, before: bool, after: bool) -> np.ndarray:
    """float32 [size]: 1 in the middle, falling to an edge that another tile shares."""
    width = max(1, tile // OVERLAP)
    rising = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(width)
    found = np.ones(size, np.float32)
    if before:
        found = np.minimum(found, rising)
    if after:
        found = np.minimum(found, rising[::-1])
    return found
