"""Do pictures have the grain of real ones? The Fréchet distance of a classifier's first features to real pictures'.

The first stage of a classifier sees edges, flat areas and grain, and nothing of what is drawn: pictures that are too
soft, too noisy or smeared lie far from real ones there, while features of concepts hardly move.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qsched_edge.errors import MetricError
from qsched_edge.jaq.concepts import Classifier
from qsched_edge.jaq.frechet import Frechet, FrechetDistance, Gaussian
from qsched_edge.jaq.judges import Distance, Drawn, Look, Reading
from qsched_edge.jaq.settings import JudgeSource

STATISTICS = "grain.safetensors"


class Grain:
    """Features: each channel's mean and deviation over the picture, after the first stage."""

    readings: Mapping[str, Reading] = {}

    def __init__(self, classifier: Classifier, reference: Gaussian, files: frozenset[str]) -> None:
        self.classifier, self.files = classifier, files
        reading = Reading("Fréchet distance of grain", "grain", False, "{:.3f}", "{:+.3f}")
        self.distances: Mapping[str, Distance] = {"grain": FrechetDistance(reading, Frechet(reference))}

    def look(self, drawn: Drawn) -> Look:
        return Look({}, grain_features(self.classifier, drawn.images))

    def check(self, prompts: object) -> None:
        """Any will do."""


def grain_features(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """float32 [N, 3, H, W] in 0..1 -> float32 [N, 2 channels]."""
    import torch

    with torch.no_grad():
        pixels = torch.from_numpy(images * 2 - 1).to(classifier.device)
        stage = classifier.model.resnet(pixels, output_hidden_states=True).hidden_states[1]
        return torch.cat([stage.mean(dim=(2, 3)), stage.std(dim=(2, 3))], dim=1).float().cpu().numpy()


def grain(source: JudgeSource) -> Grain:
    """`source.what` is a classifier's folder, with grain.safetensors (statistics of real pictures) in it."""
    from safetensors.numpy import load_file

    folder = Path(source.what)
    if not (source.what and (folder / STATISTICS).is_file()):
        raise MetricError(f"grain: {folder / STATISTICS} is missing: name a classifier that has it, grain:FOLDER")
    stored = load_file(folder / STATISTICS)
    files = frozenset(str((folder / name).resolve()) for name in ("model.safetensors", STATISTICS))
    return Grain(Classifier(folder, source.device), Gaussian(stored["mean"], stored["covariance"]), files)
