"""The autoencoder: 64 x 64 RGB <-> 16 x 16 x 4 latents: `python -m training.autoencoder`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from training.captions import combinations
from training.drawings import Drawings
from training.loop import Settings, averaged, train

SETTINGS = Settings("autoencoder", steps=1400, learning_rate=1e-3, warmup=100, cooldown=0.4, ema=0.995)
BATCH = 32
KL_WEIGHT = 1e-6


def build() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
    )


def to_signed(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def reconstruction_loss(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """L1 of the picture, of its edges and of its half-size copy: flat areas, outlines and shapes."""
    outline = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x), strict=True))
    return F.l1_loss(y, x) + outline + F.l1_loss(F.avg_pool2d(y, 2), F.avg_pool2d(x, 2))


def main() -> None:
    torch.manual_seed(0)
    drawings = Drawings()
    model = build().to(memory_format=torch.channels_last)
    seen = [c for c in combinations() if not c.held_out]

    def loss_of(step: int) -> torch.Tensor:
        rng = np.random.default_rng(step)
        chosen = [seen[i] for i in rng.integers(len(seen), size=BATCH)]
        x = to_signed(np.stack([drawings.picture(c, rng) for c in chosen]))
        posterior = model.encode(x).latent_dist
        y = model.decode(posterior.sample()).sample
        return reconstruction_loss(y.float(), x) + KL_WEIGHT * posterior.kl().mean()

    train(SETTINGS, model, loss_of)


def load() -> AutoencoderKL:
    model = build()
    model.load_state_dict(averaged(SETTINGS.name))
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
