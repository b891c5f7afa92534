"""Pictures as the judges see them in training: clean, degraded in pixels, decoded from clean or damaged latents."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from training import autoencoder
from training.captions import Combination
from training.drawings import Drawings


class Pictures:
    """Draws batches of combinations as float32 [B, 3, 64, 64] in 0..1."""

    def __init__(self) -> None:
        self.drawings, self.vae = Drawings(), autoencoder.load()

    def real(self, chosen: list[Combination], rng: np.random.Generator) -> torch.Tensor:
        pictures = np.stack([self.drawings.picture(c, rng) for c in chosen])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255

    @torch.no_grad()
    def decoded(self, x: torch.Tensor, damage: float) -> torch.Tensor:
        """Through the autoencoder; `damage` scales random gain, offset and noise of the latents (0: none)."""
        z = self.vae.encode(x * 2 - 1).latent_dist.mean.float()
        spread, per_picture = z.std(), (len(z), 1, 1, 1)
        gain = 1 + damage * 0.5 * torch.randn(per_picture)
        offset = damage * 0.3 * spread * torch.randn(len(z), z.shape[1], 1, 1)
        noise = damage * torch.rand(per_picture) * spread * torch.randn_like(z)
        return (self.vae.decode(z * gain + offset + noise).sample.float() / 2 + 0.5).clamp(0, 1)


def degrade(x: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """One visible defect for each picture: noise, blur, colour shift, contrast, blocks or grain."""
    kinds = [noisy, blurred, tinted, contrasted, blocky, grainy]
    picked = torch.randint(len(kinds), (len(x),))
    out = x.clone()
    for i, kind in enumerate(kinds):
        if (picked == i).any():
            out[picked == i] = kind(x[picked == i], strength)
    return out.clamp(0, 1)


def uniform(x: torch.Tensor, low: float, high: float, channels: int = 1) -> torch.Tensor:
    return low + (high - low) * torch.rand(len(x), channels, 1, 1)


def noisy(x: torch.Tensor, strength: float) -> torch.Tensor:
    return x + strength * uniform(x, 0.05, 0.3) * torch.randn_like(x)


def blurred(x: torch.Tensor, strength: float) -> torch.Tensor:
    size = 5
    soft = F.avg_pool2d(F.pad(x, [size // 2] * 4, mode="replicate"), size, stride=1)
    return x.lerp(soft, strength * float(torch.rand(()) * 0.5 + 0.5))


def tinted(x: torch.Tensor, strength: float) -> torch.Tensor:
    return x + strength * 0.25 * torch.randn(len(x), 3, 1, 1)


def contrasted(x: torch.Tensor, strength: float) -> torch.Tensor:
    factor = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, uniform(x, 0.3, 0.7), uniform(x, 1.4, 2.5))
    return (x - 0.5) * factor.lerp(torch.ones_like(factor), 1 - strength) + 0.5


def blocky(x: torch.Tensor, strength: float) -> torch.Tensor:
    coarse = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4)
    return x.lerp(coarse, strength * float(torch.rand(()) * 0.4 + 0.6))


def grainy(x: torch.Tensor, strength: float) -> torch.Tensor:
    coarse = F.interpolate(torch.randn(len(x), 3, 16, 16), scale_factor=4, mode="bilinear")
    return x + strength * uniform(x, 0.1, 0.35) * coarse
