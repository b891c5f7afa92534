"""Where graph inputs come from: the vocabulary of `inputs` in qsched.json, and patches of latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qsched_runtime.errors import BundleError
from qsched_runtime.manifest import LatentSpec
from qsched_runtime.tokenize import Tokenizer

MOVING = ("latents", "timestep", "timesteps")  # what changes from step to step


@dataclass(frozen=True)
class Known:
    """All that is known before the first step; `outputs` fills as the text encoders run."""

    texts: list[str]
    guidance_scale: float
    size: tuple[int, ...]
    latents: LatentSpec
    tokenizers: Mapping[str, Tokenizer]
    outputs: dict[str, np.ndarray] = field(default_factory=dict)

    def value(self, source: Any) -> np.ndarray:
        """Resolve one source; raises BundleError for one this runtime does not know."""
        batch, (h, w), patch = len(self.texts), self.size, self.latents.patch
        match source:
            case {"tokenizer": name}:
                return np.array([self.tokenizers[name](text) for text in self.texts], np.int64)
            case {"attention_mask": name}:
                read = [(self.tokenizers[name].count(text), len(self.tokenizers[name](text))) for text in self.texts]
                return np.stack([np.arange(length) < count for count, length in read]).astype(np.int64)
            case {"outputs": names}:
                return np.concatenate([self.outputs[name] for name in names], axis=-1)
            case {"guidance_embedding": width}:
                return np.repeat(guidance_embedding(self.guidance_scale, width), batch, axis=0)
            case "guidance_scale":
                return np.full(batch, self.guidance_scale)
            case "image_size":  # SDXL's time_ids: original height and width, crop corner, target height and width
                height, width = (side * self.latents.pixels_per_latent for side in (h, w))
                return np.array([[height, width, 0, 0, height, width]] * batch)
            case "patch_positions":
                rows, columns = np.mgrid[: h // patch, : w // patch]
                return np.stack([0 * rows, rows, columns], axis=-1).reshape(-1, 3)
            case {"zeros": shape}:
                return np.zeros(shape)
        raise BundleError(f"input source {source!r} is unknown to this runtime: use a newer one")


def guidance_embedding(guidance_scale: float, width: int) -> np.ndarray:
    """float32 [1, width]: sin and cos of 1000 (guidance_scale - 1), as LCM (arXiv 2310.04378) feeds its scale."""
    half = width // 2
    rates = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000.0) / (half - 1)))
    angles = np.float32(guidance_scale - 1) * np.float32(1000) * rates
    return np.concatenate([np.sin(angles), np.cos(angles)])[None]


def patchify(x: np.ndarray, p: int) -> np.ndarray:
    """[B, C, h, w] -> [B, (h / p) (w / p), C p p], rows of patches first; p = 0: no patches, x itself."""
    if not p:
        return x
    b, c, h, w = x.shape
    return x.reshape(b, c, h // p, p, w // p, p).transpose(0, 2, 4, 1, 3, 5).reshape(b, -1, c * p * p)


def unpatchify(y: np.ndarray, p: int, size: tuple[int, ...]) -> np.ndarray:
    """The inverse of `patchify` for latents of `size` (h, w)."""
    if not p:
        return y
    (h, w), b = size, len(y)
    return y.reshape(b, h // p, w // p, -1, p, p).transpose(0, 3, 1, 4, 2, 5).reshape(b, -1, h, w)
