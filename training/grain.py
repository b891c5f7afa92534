"""Statistics of the real drawings' grain for the judges that look at it: `python -m training.grain`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from qsched_edge.jaq.concepts import Classifier
from qsched_edge.jaq.grain import STATISTICS, grain_features
from training import evaluator, gate
from training.captions import combinations
from training.drawings import Drawings

BATCH = 96


def main() -> None:
    """Of every classifier that judges grain."""
    drawings = Drawings()
    for folder in (gate.TARGET, evaluator.TARGET):
        write(folder, drawings)


def write(folder: Path, drawings: Drawings) -> None:
    """Mean and covariance, float64, of all drawings' features."""
    rng, classifier, features = np.random.default_rng(4713), Classifier(folder), []
    for start in range(0, len(combinations()), BATCH):
        some = [drawings.picture(c, rng) for c in combinations()[start : start + BATCH]]
        pictures = np.stack(some).transpose(0, 3, 1, 2).astype(np.float32) / 255
        features.append(grain_features(classifier, pictures))
    wide = np.concatenate(features).astype(np.float64)
    statistics = {"mean": wide.mean(axis=0), "covariance": np.cov(wide, rowvar=False)}
    save_file(statistics, folder / STATISTICS, metadata={"drawings": str(len(wide))})


if __name__ == "__main__":
    main()
