"""What the sampler gives back: the pictures, and each step on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qsched_runtime.image import check_suffix, pil_images, write_image
from qsched_runtime.schedule import FoldedSchedule


@dataclass(frozen=True)
class Step:
    """What one step of the sampler saw: latents x, network output e, fresh noise z (or None), new latents.

    All float32 [B, C, h, w]; `i` counts from 0 and `schedule` is the one that was sampled with.
    """

    i: int
    x: np.ndarray
    e: np.ndarray
    z: np.ndarray | None
    x_next: np.ndarray
    schedule: FoldedSchedule | None = field(default=None, repr=False, compare=False)

    @property
    def estimate(self) -> np.ndarray:
        """The latents of the finished picture as this step sees them, float32 [B, C, h, w]."""
        if self.schedule is None:
            return self.x_next
        return self.schedule.estimate(self.x, self.z, self.x_next, self.i)


@dataclass(frozen=True)
class Output:
    """images uint8 [B, H, W, 3]; latents float32 [B, C, h, w], the last step's.

    `seed` is the one that was given or, for None, drawn; the same seed gives the same pictures. `stopped` says that a
    callback ended the sampling early: the pictures are then that step's estimate of the finished ones.
    """

    images: np.ndarray
    latents: np.ndarray
    seed: int | tuple[int, ...] = 0
    stopped: bool = False

    def pil(self) -> list[Any]:
        """The pictures as PIL images; RequestError where Pillow is not installed."""
        return pil_images(self.images)

    def save(self, path: str | Path) -> list[Path]:
        """Write `path`, or NAME-0.SUFFIX, NAME-1.SUFFIX ... for several pictures, and give back their paths.

        PNG needs nothing; JPEG, WebP and others need Pillow. RequestError, before anything is written, for a suffix
        that cannot be written.
        """
        check_suffix(Path(path))
        names = numbered(Path(path), len(self.images))
        for name, image in zip(names, self.images, strict=True):
            write_image(name, image)
        return names


def numbered(path: Path, count: int) -> list[Path]:
    """`path` itself for one picture, NAME-0.SUFFIX ... for several."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(count)]
