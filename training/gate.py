"""The judge that decides what a calibration ships: `python -m training.gate`.

It shares nothing with the scorer, which calibration fits to, or with the evaluator, which only reports: bottleneck
blocks in three stages, another seed and other degradations, and no held-out combination among its drawings, so that its
accuracy on those is a held-out figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import ResNetConfig, ResNetForImageClassification

from training import publish as published
from training.captions import HERE, Combination, combinations, concepts
from training.degrade import degrade
from training.drawings import Drawings
from training.loop import Settings, averaged, train

TARGET = HERE.parent / "models/emoji-gate"
SETTINGS = Settings("gate", steps=650, learning_rate=3e-3, warmup=60, cooldown=0.7, ema=0.99, weight_decay=0.03)
BATCH, SEED = 64, 4711


def build() -> ResNetForImageClassification:
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=40,
            hidden_sizes=[96, 192, 320],
            depths=[2, 3, 2],
            layer_type="bottleneck",
            hidden_act="silu",
            id2label={i: name.replace("-", " ") for i, name in enumerate(concepts())},
        )
    )


def composed(drawings: Drawings, chosen: Sequence[Combination], rng: np.random.Generator) -> torch.Tensor:
    """float32 [N, 3, 64, 64] in 0..1."""
    pictures = np.stack([drawings.picture(c, rng) for c in chosen])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def smeared(vae: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    """Through the autoencoder with latents low-passed or mixed with noise, as few-step samples come out."""
    z = vae.encode(x * 2 - 1).latent_dist.mean
    soft = F.avg_pool2d(F.pad(z, [1] * 4, mode="replicate"), 3, stride=1)
    z = z.lerp(soft, torch.rand(len(z), 1, 1, 1) * 0.9)
    z = z + 0.35 * torch.rand(len(z), 1, 1, 1) * z.std() * torch.randn_like(z)
    return (vae.decode(z).sample / 2 + 0.5).clamp(0, 1)


def main() -> None:
    torch.manual_seed(SEED)
    model, drawings = build(), Drawings()
    vae = AutoencoderKL.from_pretrained(published.TARGET / "vae", torch_dtype=torch.float32).eval()
    seen = [c for c in combinations() if not c.held_out]

    def loss_of(step: int) -> torch.Tensor:
        rng = np.random.default_rng([SEED, step])
        torch.manual_seed(SEED * 1_000_000 + step)
        chosen = [seen[i] for i in rng.integers(len(seen), size=BATCH)]
        x = composed(drawings, chosen, rng)
        quarter, tenth = BATCH // 4, BATCH // 20
        x[:quarter] = degrade(x[:quarter], 0.8)
        x[quarter : quarter + tenth] = smeared(vae, x[quarter : quarter + tenth])
        labels = torch.tensor([concepts().index(c.concept) for c in chosen])
        return F.cross_entropy(model(x * 2 - 1).logits, labels, label_smoothing=0.05)

    train(SETTINGS, model, loss_of)
    publish(drawings)


@torch.no_grad()
def publish(drawings: Drawings) -> None:
    """Save the classifier and the Fréchet statistics (float64 mean and covariance) of the real drawings' features."""
    model, rng = build(), np.random.default_rng(SEED + 1)
    model.load_state_dict(averaged(SETTINGS.name))
    model.eval()
    features, right = [], []
    for start in range(0, len(combinations()), 96):
        chosen = combinations()[start : start + 96]
        output = model(composed(drawings, chosen, rng) * 2 - 1, output_hidden_states=True)
        features.append(output.hidden_states[-1].mean(dim=(2, 3)).double())
        labels = torch.tensor([concepts().index(c.concept) for c in chosen])
        right.append(output.logits.argmax(1) == labels)
    stacked, hits = torch.cat(features), torch.cat(right).double()
    held = torch.tensor([c.held_out for c in combinations()])
    TARGET.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(TARGET)
    statistics = {"mean": stacked.mean(0), "covariance": torch.cov(stacked.T)}
    save_file(statistics, TARGET / "frechet.safetensors", metadata={"drawings": str(len(stacked))})
    print(
        f"top-1 on real drawings: held out {hits[held].mean():.4f} of {int(held.sum())}, seen {hits[~held].mean():.4f}"
    )


if __name__ == "__main__":
    main()
