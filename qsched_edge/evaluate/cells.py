"""The four cells {full precision, quantized} x {c = 1, calibrated}: same prompts, same noise, measured alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from qsched_runtime import Coefficients, Sampler
from qsched_runtime.image import to_uint8

from qsched_edge import noise
from qsched_edge.errors import MetricError
from qsched_edge.jaq.concepts import Classifier
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.terms import picture_terms

CELL_BATCH = 16  # pictures drawn and measured together


def metric_names() -> tuple[str, ...]:
    """The terms of a picture, then what the classifier says."""
    return (*picture_terms(), "top1", "top5")


@dataclass(frozen=True)
class Cell:
    """One cell's measurements: metrics float64 [prompts, seeds] each, features float32 [prompts, seeds, D],
    pictures uint8 [shown, H, W, 3] of the first prompts at the first seed."""

    metrics: dict[str, np.ndarray]
    features: np.ndarray
    pictures: np.ndarray

    def save(self, path: Path) -> None:
        np.savez_compressed(path, features=self.features, pictures=self.pictures, **self.metrics)

    @classmethod
    def load(cls, path: Path) -> Cell:
        with np.load(path, allow_pickle=False) as stored:
            return cls({m: stored[m] for m in metric_names()}, stored["features"], stored["pictures"])


def last_latents(
    sampler: Sampler, prompts: Sequence[str], seeds: Sequence[int], coefficients: Coefficients
) -> np.ndarray:
    """float32 [B, C, h, w]: what the sampler ends with, not yet decoded."""
    schedule = sampler.schedule(len(coefficients.c_x), coefficients)
    streams = sampler.streams(seeds, len(prompts))
    *_, last = sampler.trajectory(sampler.condition(prompts), schedule, streams)
    return last.x_next


def measure(
    sampler: Sampler,
    coefficients: Coefficients,
    judges: tuple[Judge, Classifier],
    prompts: Sequence[str],
    seeds: int,
    shown: int,
    advance: Callable[[int], None],
) -> Cell:
    """Draw every prompt with every seed and measure the pictures."""
    judge, classifier = judges
    jobs = [(p, s) for p in range(len(prompts)) for s in range(seeds)]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in (*metric_names(), "features", "pictures")}
    for start in range(0, len(jobs), CELL_BATCH):
        some = jobs[start : start + CELL_BATCH]
        texts = [prompts[p] for p, _ in some]
        streams = [noise.reporting(s, p) for p, s in some]
        latents = last_latents(sampler, texts, streams, coefficients)
        images = sampler.decode(latents)
        scores, (ranking, features) = judge.scores(images, texts, latents), classifier(images)
        if not scores.finite:
            raise MetricError("a JAQ term is not finite: the pictures or the scorer are broken")
        labels = np.array([classifier.label_of(text) for text in texts])
        for name in picture_terms():
            rows[name].append(scores[name])
        rows["top1"].append((ranking[:, 0] == labels).astype(float))
        rows["top5"].append((ranking[:, :5] == labels[:, None]).any(axis=1).astype(float))
        rows["features"].append(features)
        first = [i for i, (p, s) in enumerate(some) if s == 0 and p < shown]
        rows["pictures"].append(to_uint8(images[first]))
        advance(len(some))
    table = {name: np.concatenate(parts) for name, parts in rows.items()}
    shape = (len(prompts), seeds)
    return Cell(
        {m: table[m].reshape(shape) for m in metric_names()}, table["features"].reshape(*shape, -1), table["pictures"]
    )  # fmt: skip
