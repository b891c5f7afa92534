"""The second judge, which calibration never sees: a ResNet classifier of concepts: `python -m training.evaluator`."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import ResNetConfig, ResNetForImageClassification

from training.captions import HERE, combinations, concepts
from training.degrade import Pictures, degrade
from training.loop import Settings, averaged, train

TARGET = HERE.parent / "models/emoji-evaluator"
SETTINGS = Settings("evaluator", steps=1000, learning_rate=2e-3, warmup=100, cooldown=0.6, ema=0.995, weight_decay=0.02)
BATCH = 96


def build() -> ResNetForImageClassification:
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=[48, 96, 128, 128],
            depths=[1, 2, 2, 1],
            layer_type="basic",
            id2label={i: name.replace("-", " ") for i, name in enumerate(concepts())},
        )
    )


def main() -> None:
    torch.manual_seed(2)
    model, pictures = build(), Pictures()

    def loss_of(step: int) -> torch.Tensor:
        rng = np.random.default_rng([7, step])
        which = rng.integers(len(combinations()), size=BATCH)
        chosen = [combinations()[i] for i in which]
        x = pictures.real(chosen, rng)
        third = BATCH // 3
        x[:third] = degrade(x[:third], 0.6)
        x[third : third + third // 2] = pictures.decoded(x[third : third + third // 2], 0.4)
        labels = torch.tensor([concepts().index(c.concept) for c in chosen])
        return F.cross_entropy(model(x * 2 - 1).logits.float(), labels, label_smoothing=0.05)

    train(SETTINGS, model, loss_of)
    publish()


def load() -> ResNetForImageClassification:
    model = build()
    model.load_state_dict(averaged(SETTINGS.name))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def publish() -> None:
    """Save the classifier and the Fréchet statistics (float64 mean and covariance) of the real drawings' features."""
    model, pictures, rng = load(), Pictures(), np.random.default_rng(0)
    features, right = [], []
    for start in range(0, len(combinations()), 96):
        chosen = list(combinations()[start : start + 96])
        output = model(pictures.real(chosen, rng) * 2 - 1, output_hidden_states=True)
        features.append(output.hidden_states[-1].mean(dim=(2, 3)).double())
        labels = torch.tensor([concepts().index(c.concept) for c in chosen])
        right.append((output.logits.topk(5).indices == labels[:, None]).any(1))
    stacked = torch.cat(features)
    TARGET.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(TARGET)
    statistics = {"mean": stacked.mean(0), "covariance": torch.cov(stacked.T)}
    save_file(statistics, TARGET / "frechet.safetensors", metadata={"drawings": str(len(stacked))})
    print(f"top-5 accuracy on real drawings: {torch.cat(right).double().mean():.4f}")


if __name__ == "__main__":
    main()
