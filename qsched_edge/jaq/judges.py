"""Judges of pictures: a line for each, and what all of them have in common. It imports nothing of the project.

A judge is one file with a maker, `maker(source) -> Judge`, and one line in JUDGES; `source` (settings.JudgeSource) says
which model it looks through. It looks at pictures and gives one number of each measure for each picture, so that two
ways to draw the same prompts can be compared prompt by prompt; what can only be said of many pictures together is a
distance between the pictures' features and a target.

A judge has one of three ROLES in a comparison. They share no files, so that what is fitted to cannot decide, and what
decides cannot report: `fit` is what a loss sees, `gate` decides what ships, `report` does nothing but report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

JUDGES = {
    "paired": "qsched_edge.jaq.paired:paired",
    "concepts": "qsched_edge.jaq.concepts:concepts",
    "features": "qsched_edge.jaq.features:features",
    "shallow": "qsched_edge.jaq.features:shallow",
    "texture": "qsched_edge.jaq.texture:texture",
    "truth": "qsched_edge.jaq.nearness:truth",
    "lpips": "qsched_edge.jaq.library:lpips",
    "pyiqa": "qsched_edge.jaq.library:pyiqa_metric",
    "terms": "qsched_edge.jaq.scored:scored_terms",
    "grain": "qsched_edge.jaq.grain:grain",
}
ROLES = ("fit", "gate", "report")


@dataclass(frozen=True)
class Reading:
    """How a measure is called (`short` in a narrow table), printed (a value, a difference) and which way is better;
    `beside`: it says how near a picture is to full precision's, and nothing of whether that one is good."""

    label: str
    short: str
    more_is_better: bool = True
    form: str = "{:.4f}"
    signed: str = "{:+.4f}"
    beside: bool = False


@dataclass(frozen=True)
class Drawn:
    """What judges look at: images float32 [N, 3, H, W] in 0..1, their N prompts, the last latents float32 [N, C, h, w]
    (None where nobody has them), and `beside`: full precision's pictures of the same prompts from the same noise."""

    images: np.ndarray
    prompts: Sequence[str]
    latents: np.ndarray | None = None
    beside: Drawn | None = None


@dataclass(frozen=True)
class Look:
    """What a judge saw: a number for each picture of every measure, float64 [N] by name, and features float32 [N, D]
    (None where the judge measures no distance)."""

    values: Mapping[str, np.ndarray]
    features: np.ndarray | None = None


class Distance(Protocol):
    """What is said of many pictures together. `beside` are full precision's features of the same prompts and noise:
    the target of a distance that has no reference pictures of its own (`needs_beside`)."""

    @property
    def reading(self) -> Reading: ...
    @property
    def needs_beside(self) -> bool: ...
    def resampled(self, features: np.ndarray, beside: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        """features [P, S, D] of P prompts with S noises each, rows int [R, P] of prompts -> float64 [R]."""


class PictureJudge(Protocol):
    """`readings` name the measures of single pictures, `distances` those of many; a name belongs to one judge alone.
    `files` is all that the judge looks through, by resolved path (or "library:NAME"), for telling judges apart."""

    readings: Mapping[str, Reading]
    distances: Mapping[str, Distance]
    files: frozenset[str]

    def look(self, drawn: Drawn) -> Look:
        """Of a batch; measures that need `beside` are left out where there is none."""

    def check(self, prompts: Sequence[str]) -> None:
        """Raises MetricError for prompts that it has nothing to say of."""
