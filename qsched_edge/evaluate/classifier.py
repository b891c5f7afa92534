"""The second judge: an image classifier that calibration never uses, for concept accuracy and Fréchet features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qsched_edge import torchvision_schema
from qsched_edge.errors import MetricError
from qsched_edge.evaluate.frechet import Frechet, Gaussian


class Classifier:
    """A transformers ResNet classifier in `folder`, with frechet.safetensors (statistics of real pictures) in it."""

    def __init__(self, folder: Path) -> None:
        for name in ("config.json", "model.safetensors", "frechet.safetensors"):
            if not (folder / name).is_file():
                raise MetricError(
                    f"evaluator {folder} has no {name}: give the folder of a classifier with its statistics"
                )
        torchvision_schema.declare()
        import torch
        from safetensors.numpy import load_file
        from transformers import ResNetForImageClassification

        self.model = ResNetForImageClassification.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        self.model.eval().requires_grad_(False)
        self.labels: dict[str, int] = {str(n): int(i) for i, n in (self.model.config.id2label or {}).items()}
        statistics = load_file(folder / "frechet.safetensors")
        self.frechet = Frechet(Gaussian(statistics["mean"], statistics["covariance"]))

    def label_of(self, prompt: str) -> int:
        """The concept a prompt names: the longest label in it. Raises MetricError when there is none."""
        named = [label for label in self.labels if f" {label}," in f" {prompt},".replace(".", ",")]
        if not named:
            raise MetricError(f"prompt {prompt!r} names none of the evaluator's {len(self.labels)} concepts")
        return self.labels[max(named, key=len)]

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B, 3, H, W] in -1..1 -> (ranking int64 [B, labels], best first; features float32 [B, D])."""
        import torch

        with torch.no_grad():
            output = self.model(torch.from_numpy(np.clip(images, -1, 1)), output_hidden_states=True)
        ranking = output.logits.argsort(dim=1, descending=True).numpy()
        return ranking, output.hidden_states[-1].mean(dim=(2, 3)).numpy()
