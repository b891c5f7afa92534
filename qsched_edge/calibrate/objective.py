"""The objective: coefficients -> the raw terms of the pictures that the shipped sampler draws with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from qsched_runtime import Coefficients, Sampler, Step
from qsched_runtime.sampler import Conditioning

from qsched_edge.calibrate.memo import LIMIT, Memo
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.loss import Scores
from qsched_edge.jaq.terms import Seen

if TYPE_CHECKING:
    import torch

BATCH = 8


@dataclass(frozen=True)
class Batch:
    """A few prompts with their conditioning, computed once, and the seeds of their noise."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    conditioning: Conditioning


class RememberingSampler(Sampler):
    """The shipped sampler; a network output it has computed from the same bytes is taken from memory instead.

    `passes` counts the network's evaluations, one for each picture and step; an output from memory is none.
    """

    def __init__(self, sampler: Sampler, limit: int = LIMIT) -> None:
        super().__init__(sampler.manifest, sampler.graphs, sampler.tokenizers)
        self.memo, self.passes = Memo(limit), 0

    def network_output(self, x: np.ndarray, timestep: float, conditioning: Conditioning) -> np.ndarray:
        key = (id(conditioning), timestep, hashlib.sha256(x.tobytes()).digest())
        e = self.memo.get(key)
        if e is None:
            e = self.fresh_output(x, timestep, conditioning)
            self.memo.put(key, e, e.nbytes)
        return e

    def fresh_output(self, x: np.ndarray, timestep: float, conditioning: Conditioning) -> np.ndarray:
        """Computed and forgotten."""
        self.passes += len(x)
        return super().network_output(x, timestep, conditioning)


class Objective:
    """Pictures for fixed prompts and fixed noise: candidates differ in nothing but their coefficients.

    Picture i gets seed `first_seed + i`. `full` is the full-precision sampler, for paired passes and, if `compare` is
    set, for the reference term of every picture.
    """

    def __init__(
        self, sampler: Sampler, judge: Judge, prompts: Sequence[str], first_seed: int, steps: int,
        full: Sampler | None = None, compare: bool = False,
    ) -> None:  # fmt: skip
        self.sampler, self.judge, self.steps, self.full = RememberingSampler(sampler), judge, steps, full
        self.compare = compare
        self.targets: dict[tuple[int, ...], np.ndarray] = {}
        self.batches = []
        for start in range(0, len(prompts), BATCH):
            some = tuple(prompts[start : start + BATCH])
            seeds = tuple(range(first_seed + start, first_seed + start + len(some)))
            self.batches.append(Batch(some, seeds, sampler.condition(some)))

    def trajectory(self, batch: Batch, coefficients: Coefficients, sampler: Sampler | None = None) -> Iterator[Step]:
        """The sampler's own steps for one batch."""
        sampler = sampler or self.sampler
        schedule, streams = sampler.schedule(self.steps, coefficients), sampler.streams(batch.seeds, len(batch.seeds))
        return sampler.trajectory(batch.conditioning, schedule, streams)

    def full_precision(self, batch: Batch) -> Iterator[Step]:
        """The steps of the full-precision model at c = 1, from the same noise."""
        assert self.full is not None
        own = replace(batch, conditioning=self.full.condition(batch.prompts))
        return self.trajectory(own, Coefficients.identity(self.steps), self.full)

    def target(self, batch: Batch) -> np.ndarray | None:
        """Full precision's last latents, drawn once; None where nothing is compared with them."""
        if not self.compare:
            return None
        if batch.seeds not in self.targets:
            *_, last = self.full_precision(batch)
            self.targets[batch.seeds] = last.x_next
        return self.targets[batch.seeds]

    def scores(self, batch: Batch, coefficients: Coefficients) -> Scores:
        """The raw terms of one batch, through the bundle's own decoder."""
        *_, last = self.trajectory(batch, coefficients)
        images = self.sampler.decode(last.x_next)
        return self.judge.scores(images, batch.prompts, last.x_next, self.target(batch))

    def terms(self, latents: torch.Tensor, images: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """The same terms as tensors, differentiable in the last latents and in the pictures (0..1) made of them."""
        import torch

        target = self.target(batch)
        goal = None if target is None else torch.from_numpy(target).to(latents)
        return self.judge.terms(Seen(images, batch.prompts, latents, goal))
