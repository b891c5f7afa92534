"""Work for an engine: one candidate on one batch of prompts, described so that any process can do it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qsched_runtime import Coefficients, Sampler

from qsched_edge.calibrate.adjoint import batch_gradient
from qsched_edge.calibrate.decoder import Decoder
from qsched_edge.calibrate.device import open_sampler
from qsched_edge.calibrate.objective import BATCH, Objective
from qsched_edge.calibrate.pairs import batch_statistics
from qsched_edge.calibrate.place import Place
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.loss import Loss
from qsched_edge.jaq.settings import TermSettings


@dataclass(frozen=True)
class Draws:
    """Prompts and the seed of the first one's noise; the next ones count up."""

    prompts: tuple[str, ...]
    first_seed: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Pictures in each batch."""
        return tuple(len(self.prompts[i : i + BATCH]) for i in range(0, len(self.prompts), BATCH))

    def batch(self, index: int) -> Draws:
        """One batch as a set of its own, with the noise it has here."""
        first = index * BATCH
        return Draws(self.prompts[first : first + BATCH], self.first_seed + first)


@dataclass(frozen=True)
class Setup:
    """All that a worker needs to build its objectives; `full` is the 32-bit bundle, for paired passes and, if `compare`
    is set, for the reference term."""

    bundle: Path
    steps: int
    terms: TermSettings
    vae: Path
    full: Path | None = None
    compare: bool = False
    place: Place = field(default_factory=Place)


@dataclass(frozen=True)
class Job:
    """`kind` "scores", "gradient" or "pairs", of the batch `batch` of `draws`."""

    kind: str
    draws: Draws
    batch: int
    coefficients: Coefficients
    loss: Loss | None = None
    jacobian: str = "none"


@dataclass
class Worker:
    """Does jobs, one after another, in this process."""

    setup: Setup
    objectives: dict[Draws, Objective] = field(default_factory=dict)

    @cached_property
    def sampler(self) -> Sampler:
        return self.open(self.setup.bundle)

    @cached_property
    def full(self) -> Sampler | None:
        return self.open(self.setup.full) if self.setup.full else None

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.setup.terms, self.setup.place.device)

    @cached_property
    def decoder(self) -> Decoder:
        return Decoder(self.setup.vae, self.sampler.manifest.latents, self.setup.place.device)

    def open(self, folder: Path) -> Sampler:
        return open_sampler(folder, self.setup.place)

    def objective(self, draws: Draws) -> Objective:
        if draws not in self.objectives:
            self.objectives[draws] = Objective(
                self.sampler, self.judge, draws.prompts, draws.first_seed, self.setup.steps, self.full,
                self.setup.compare,
            )  # fmt: skip
        return self.objectives[draws]

    def do(self, job: Job) -> dict[str, Any]:
        """The job's result as JSON values, with the seconds it took."""
        start = time.perf_counter()
        found = getattr(self, job.kind)(self.objective(job.draws), job)
        return {**found, "seconds": time.perf_counter() - start}

    def scores(self, objective: Objective, job: Job) -> dict[str, Any]:
        found = objective.scores(objective.batches[job.batch], job.coefficients)
        return {"terms": {name: values.tolist() for name, values in found.values.items()}}

    def gradient(self, objective: Objective, job: Job) -> dict[str, Any]:
        assert job.loss is not None
        batch = objective.batches[job.batch]
        total, gradient = batch_gradient(objective, self.decoder, batch, job.coefficients, job.loss, job.jacobian)
        return {"total": total, "gradient": gradient.tolist()}

    def pairs(self, objective: Objective, job: Job) -> dict[str, Any]:
        return {"moments": batch_statistics(objective, objective.batches[job.batch]).tolist()}

    @property
    def passes(self) -> int:
        return sum(o.sampler.passes for o in self.objectives.values())
