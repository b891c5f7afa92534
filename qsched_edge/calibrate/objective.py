"""The objective: coefficients -> JAQ terms of the pictures that the shipped sampler draws with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from qsched_runtime import Coefficients, Sampler, Step
from qsched_runtime.sampler import Conditioning, draw

from qsched_edge.jaq.loss import Judge, Scores

BATCH = 16


@dataclass(frozen=True)
class Batch:
    """A few prompts with their conditioning, computed once, and the seeds of their noise."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    conditioning: Conditioning


class Objective:
    """Pictures for fixed prompts and fixed noise: candidates differ in nothing but their coefficients.

    Picture i gets seed `first_seed + i`. `passes` counts the backbone's evaluations, one for each picture and step.
    """

    def __init__(self, sampler: Sampler, judge: Judge, prompts: Sequence[str], first_seed: int, steps: int) -> None:
        self.sampler, self.judge, self.steps, self.passes = sampler, judge, steps, 0
        self.batches = []
        for start in range(0, len(prompts), BATCH):
            some = tuple(prompts[start : start + BATCH])
            seeds = tuple(range(first_seed + start, first_seed + start + len(some)))
            self.batches.append(Batch(some, seeds, sampler.condition(some)))

    def trajectory(self, batch: Batch, coefficients: Coefficients) -> Iterator[Step]:
        """The sampler's own steps for one batch; counts the passes."""
        schedule, streams = (
            self.sampler.schedule(self.steps, coefficients),
            self.sampler.streams(batch.seeds, len(batch.seeds)),
        )
        x = draw(streams, batch.conditioning.shape) * np.float32(schedule.table.init_noise_sigma)
        for step in self.sampler.trajectory(x, batch.conditioning, schedule, streams):
            self.passes += len(batch.seeds)
            yield step

    def images(self, batch: Batch, coefficients: Coefficients) -> np.ndarray:
        """float32 [B, 3, H, W] in -1..1, through the bundle's own decoder."""
        *_, last = self.trajectory(batch, coefficients)
        return self.sampler.decode(last.x_next)

    def scores(self, coefficients: Coefficients) -> Scores:
        """Both raw terms of every picture, in the order of the prompts."""
        parts = [self.judge.scores(self.images(b, coefficients), b.prompts) for b in self.batches]
        return Scores(np.concatenate([p.text_image for p in parts]), np.concatenate([p.quality for p in parts]))
