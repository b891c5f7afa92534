"""Does the picture show what its prompt names? A classifier of concepts, and real pictures' features by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qsched_edge import torchvision_schema
from qsched_edge.errors import MetricError
from qsched_edge.jaq.frechet import Frechet, FrechetDistance, Gaussian
from qsched_edge.jaq.judges import Distance, Drawn, Look, Reading
from qsched_edge.jaq.settings import JudgeSource

FILES = ("config.json", "model.safetensors", "frechet.safetensors")


class Classifier:
    """A transformers ResNet classifier in `folder`, with frechet.safetensors (statistics of real pictures) in it."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        for name in FILES:
            if not (folder / name).is_file():
                raise MetricError(
                    f"evaluator {folder} has no {name}: give the folder of a classifier with its statistics"
                )
        torchvision_schema.declare()
        import torch
        from safetensors.numpy import load_file
        from transformers import ResNetForImageClassification

        self.model = ResNetForImageClassification.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        self.model.eval().requires_grad_(False).to(torch.device(device))
        self.device = device
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
        logs, features = self.logs(images)
        return logs.argsort(axis=1)[:, ::-1], features

    def logs(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same pictures -> (log probability of each label float32 [B, labels], features float32 [B, D])."""
        import torch

        with torch.no_grad():
            pixels = torch.from_numpy(np.clip(images, -1, 1)).to(self.device)
            output = self.model(pixels, output_hidden_states=True)
        logs = output.logits.log_softmax(dim=1).cpu().numpy()
        return logs, output.hidden_states[-1].mean(dim=(2, 3)).cpu().numpy()


class Concepts:
    """Concept accuracy, and the Fréchet distance of the classifier's features to real pictures'."""

    readings: Mapping[str, Reading] = {
        "top1": Reading("Concept accuracy, top 1", "top-1", True, "{:.1%}", "{:+.1%}"),
        "top5": Reading("Concept accuracy, top 5", "top-5", True, "{:.1%}", "{:+.1%}"),
        "log_p": Reading("Log probability of the concept", "log p", True, "{:.3f}", "{:+.3f}"),
    }

    def __init__(self, classifier: Classifier, files: frozenset[str]) -> None:
        self.classifier, self.files = classifier, files
        reading = Reading("Fréchet distance of concept features", "Fréchet", False, "{:.2f}",
                          "{:+.2f}")  # fmt: skip
        self.distances: Mapping[str, Distance] = {"frechet": FrechetDistance(reading, classifier.frechet)}

    def look(self, drawn: Drawn) -> Look:
        logs, features = self.classifier.logs(drawn.images * 2 - 1)
        ranking = logs.argsort(axis=1)[:, ::-1]
        labels = np.array([self.classifier.label_of(prompt) for prompt in drawn.prompts])[:, None]
        hits = {f"top{n}": (ranking[:, :n] == labels).any(axis=1).astype(float) for n in (1, 5)}
        return Look({**hits, "log_p": np.take_along_axis(logs, labels, axis=1)[:, 0].astype(np.float64)}, features)

    def check(self, prompts: Sequence[str]) -> None:
        for prompt in prompts:
            self.classifier.label_of(prompt)


def concepts(source: JudgeSource) -> Concepts:
    """`source.what` is the classifier's folder."""
    folder = Path(source.what)
    if not source.what:
        raise MetricError("no classifier of concepts is named: concepts:FOLDER")
    return Concepts(Classifier(folder, source.device), frozenset(str((folder / n).resolve()) for n in FILES[1:]))
