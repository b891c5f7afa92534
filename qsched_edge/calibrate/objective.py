"""The objective: a schedule -> the raw terms of the pictures that the shipped sampler draws with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from qsched_runtime import Sampler, Step
from qsched_runtime.sampler import Conditioning

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.calibrate.draws import Draws
from qsched_edge.calibrate.memo import LIMIT, Memo
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.judges import Drawn
from qsched_edge.jaq.loss import Scores
from qsched_edge.jaq.terms import Seen

if TYPE_CHECKING:
    import torch

Encode = Callable[[np.ndarray, Sequence[str]], Mapping[str, np.ndarray]]  # pictures and prompts -> features by encoder


def nothing(images: np.ndarray, prompts: Sequence[str]) -> Mapping[str, np.ndarray]:
    """Losses of single pictures look through no encoder."""
    return {}


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


def unit(images: np.ndarray) -> np.ndarray:
    """-1..1 -> 0..1, clipped."""
    return np.clip(images / 2 + 0.5, 0, 1)


class Objective:
    """Pictures for fixed prompts and fixed noise: candidates differ in nothing but their schedules.

    `full` is the full-precision sampler, for paired passes and, if `compare` is
    set, for the reference term of every picture; `encode` gives the features of a loss over sets.
    """

    def __init__(
        self, sampler: Sampler, judge: Judge, draws: Draws, stock: LearnedSchedule,
        full: Sampler | None = None, compare: bool = False, encode: Encode = nothing,
    ) -> None:  # fmt: skip
        self.sampler, self.judge, self.stock, self.full = RememberingSampler(sampler), judge, stock, full
        self.compare, self.encode = compare, encode
        self.targets: dict[tuple[int, ...], np.ndarray] = {}
        self.batches = [Batch(d.prompts, d.seeds, sampler.condition(d.prompts)) for d in draws.batches]

    def trajectory(self, batch: Batch, candidate: LearnedSchedule, sampler: Sampler | None = None) -> Iterator[Step]:
        """The sampler's own steps for one batch."""
        sampler = sampler or self.sampler
        streams = sampler.streams(batch.seeds, len(batch.seeds))
        return sampler.trajectory(batch.conditioning, candidate.folded(), streams)

    def full_precision(self, batch: Batch) -> Iterator[Step]:
        """The steps of the full-precision model by the stock schedule, from the same noise."""
        assert self.full is not None
        own = replace(batch, conditioning=self.full.condition(batch.prompts))
        return self.trajectory(own, self.stock, self.full)

    def target(self, batch: Batch) -> np.ndarray | None:
        """Full precision's last latents; None where nothing is compared with them."""
        return self.full_latents(batch) if self.compare else None

    def full_latents(self, batch: Batch) -> np.ndarray:
        """Full precision's last latents by the stock schedule, drawn once."""
        if batch.seeds not in self.targets:
            *_, last = self.full_precision(batch)
            self.targets[batch.seeds] = last.x_next
        return self.targets[batch.seeds]

    def drawn(self, batch: Batch, candidate: LearnedSchedule) -> Drawn:
        """The candidate's pictures, as judges look at them."""
        *_, last = self.trajectory(batch, candidate)
        return Drawn(unit(self.sampler.decode(last.x_next)), batch.prompts, last.x_next)

    def drawn_in_full(self, batch: Batch) -> Drawn:
        """Full precision's by the stock schedule."""
        assert self.full is not None
        latents = self.full_latents(batch)
        return Drawn(unit(self.full.decode(latents)), batch.prompts, latents)

    def scores(self, batch: Batch, candidate: LearnedSchedule) -> Scores:
        """The raw terms of one batch, through the bundle's own decoder, and what the loss's encoders see."""
        return self.scores_of(batch, self.drawn(batch, candidate))

    def scores_of(self, batch: Batch, drawn: Drawn) -> Scores:
        """Of pictures of the batch that are drawn already."""
        assert drawn.latents is not None
        terms = self.judge.of_unit(drawn.images, batch.prompts, drawn.latents, self.target(batch))
        return Scores(terms.values, self.encode(drawn.images, batch.prompts))

    def terms(self, latents: torch.Tensor, images: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """The same terms as tensors, differentiable in the last latents and in the pictures (0..1) made of them."""
        import torch

        target = self.target(batch)
        goal = None if target is None else torch.from_numpy(target).to(latents)
        return self.judge.terms(Seen(images, batch.prompts, latents, goal))
