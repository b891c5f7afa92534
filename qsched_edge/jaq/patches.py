"""An encoder without weights: what patches of 7 x 7 pixels of a picture's Laplacian look like along random directions.

The Laplacian leaves edges and grain, and neither colours nor what is shown; without it, how busy pictures are hides
whether they are soft. Along each direction the patches are sorted and cut into equal shares, whose means are the
features: two pictures' distance is then the sliced Wasserstein distance of their patches (arXiv 1504.02648), as
`texture` has it for sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qsched_edge.jaq.settings import JudgeSource
from qsched_edge.jaq.texture import SIDE, laplacian

DIRECTIONS, PATCHES, SHARES = 32, 256, 8
SEED = 1  # not that of the judge `texture`: other places and directions


class Patches:
    """float32 [N, DIRECTIONS x SHARES]."""

    files: frozenset[str] = frozenset()

    def __call__(self, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        rng = np.random.default_rng(SEED)
        directions = rng.normal(size=(DIRECTIONS, 3 * SIDE * SIDE))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        detail = laplacian(images)
        places = zip(*(rng.integers(n - SIDE + 1, size=PATCHES) for n in detail.shape[2:]), strict=True)
        found = np.stack([along(detail[:, :, r : r + SIDE, c : c + SIDE], directions) for r, c in places], axis=2)
        shares = np.sort(found, axis=2).reshape(len(images), DIRECTIONS, SHARES, -1)
        return shares.mean(axis=3).reshape(len(images), -1).astype(np.float32)


def along(patch: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """One patch of each picture, [N, 3, SIDE, SIDE] -> [N, DIRECTIONS]."""
    return patch.reshape(len(patch), -1) @ directions.T


def patches(source: JudgeSource) -> Patches:
    return Patches()
