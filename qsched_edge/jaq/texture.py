"""Texture and fine detail, without any model: patches of 7 x 7 pixels, and what a Laplacian leaves of a picture.

Both are compared with reference pictures where the recipe names some, else with full precision's. They say nothing of
what a picture shows: blur, noise and wrong texture are what they see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qsched_edge.jaq.distances import FEW, SetDistance, flat
from qsched_edge.jaq.judges import Distance, Drawn, Look, Reading
from qsched_edge.jaq.references import References
from qsched_edge.jaq.settings import JudgeSource

SIDE, DIRECTIONS, PATCHES = 7, 32, 64  # a patch's side; directions they are seen along; patches of a picture
PATCHED = slice(1, 1 + DIRECTIONS * PATCHES)  # of the features: the Laplacian's size comes first


class Texture:
    """Features float32 [N, 1 + DIRECTIONS x PATCHES]: the mean size of the Laplacian, and patches of each picture, by
    random places that are the same for all, along random directions."""

    readings: Mapping[str, Reading] = {}
    files: frozenset[str] = frozenset()

    def __init__(self, references: References | None) -> None:
        self.references = references
        self.side = 0
        self.distances: Mapping[str, Distance] = self.distances_to(None)

    def distances_to(self, target: np.ndarray | None) -> dict[str, Distance]:
        of = "the reference pictures'" if self.references else "full precision's"
        patches = Reading(f"Patches, sliced Wasserstein distance to {of}", "patches", False)
        detail = Reading(f"Fine detail, share of {of} missing or too much", "detail", False, "{:.1%}", "{:+.1%}")
        return {"patches": PatchDistance(patches, target), "detail": DetailDistance(detail, target)}

    def look(self, drawn: Drawn) -> Look:
        if self.references and not self.side:
            self.side = drawn.images.shape[-1]  # references are seen at the size of what is judged
            self.distances = self.distances_to(seen(self.references.square(self.side)))
        return Look({}, seen(drawn.images))

    def check(self, prompts: Sequence[str]) -> None:
        """Any will do."""


def texture(source: JudgeSource) -> Texture:
    return Texture(source.pictures())


def seen(images: np.ndarray) -> np.ndarray:
    """float32 [N, 3, H, W] in 0..1 -> the features."""
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(n - SIDE + 1, size=PATCHES) for n in images.shape[2:])
    directions = rng.normal(size=(DIRECTIONS, 3 * SIDE * SIDE))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    pairs = zip(rows, columns, strict=True)
    patches = np.stack([images[:, :, r : r + SIDE, c : c + SIDE].reshape(len(images), -1) for r, c in pairs], axis=1)
    along = np.einsum("npd,kd->nkp", patches, directions).reshape(len(images), -1)
    return np.concatenate([detail(images)[:, None], along], axis=1).astype(np.float32)


def laplacian(images: np.ndarray) -> np.ndarray:
    """The five-point Laplacian of each inner pixel, float64 [N, 3, H - 2, W - 2]."""
    x = images.astype(np.float64)
    middle = 4 * x[..., 1:-1, 1:-1]
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return middle - around


def detail(images: np.ndarray) -> np.ndarray:
    """Mean absolute value of the Laplacian, float64 [N]."""
    return np.abs(laplacian(images)).reshape(len(images), -1).mean(axis=1)


class PatchDistance(SetDistance[np.ndarray]):
    """Wasserstein-1 distance of the patches along each direction, averaged; of the first FEW rows."""

    def resampled(self, features: np.ndarray, beside: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        target = quantiles(flat(beside) if self.reference is None else self.reference)
        return np.array([np.abs(quantiles(flat(features[r])) - target).mean() for r in rows[:FEW]])


class DetailDistance(SetDistance[np.ndarray]):
    """|1 - share|, the share being the mean size of the Laplacian over the target's."""

    def resampled(self, features: np.ndarray, beside: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        target = flat(beside) if self.reference is None else self.reference
        sizes = features[..., 0].astype(np.float64).mean(axis=1)[rows].mean(axis=1)
        return np.abs(1 - sizes / target[:, 0].astype(np.float64).mean())


def quantiles(features: np.ndarray, number: int = 256) -> np.ndarray:
    """Of the patches of all pictures along each direction: [DIRECTIONS, number], in the middle of equal shares."""
    along = features[:, PATCHED].reshape(len(features), DIRECTIONS, PATCHES).transpose(1, 0, 2).reshape(DIRECTIONS, -1)
    return np.quantile(along, (np.arange(number) + 0.5) / number, axis=1).T
