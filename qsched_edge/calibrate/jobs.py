"""Work for an engine: one candidate on one batch of prompts, described so that any process can do it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from qsched_runtime import Sampler

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.calibrate.adjoint import batch_gradient
from qsched_edge.calibrate.decoder import Decoder
from qsched_edge.calibrate.device import open_sampler
from qsched_edge.calibrate.draws import Draws
from qsched_edge.calibrate.looks import GateJudges
from qsched_edge.calibrate.objective import Objective
from qsched_edge.calibrate.pairs import batch_statistics
from qsched_edge.calibrate.place import Place
from qsched_edge.calibrate.results import Done, Gradient, Looked, Moments, Result, Scored
from qsched_edge.jaq.encoders import Encoder, FitEncoders
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.loss import Loss
from qsched_edge.jaq.panel import Panel
from qsched_edge.jaq.settings import TermSettings


@dataclass(frozen=True)
class Setup:
    """All that a worker needs to build its objectives; `full` is the 32-bit bundle, for paired passes and, if `compare`
    is set, for the reference term; `gate` names the judges that decide what ships, `fit` the encoders of a loss over
    sets."""

    bundle: Path
    stock: LearnedSchedule
    terms: TermSettings
    vae: Path
    full: Path | None = None
    compare: bool = False
    gate: GateJudges | None = None
    fit: FitEncoders | None = None
    place: Place = field(default_factory=Place)


@dataclass(frozen=True)
class Job:
    """`kind` "scores", "looks", "gradient" or "pairs", of the batch `batch` of `draws`."""

    kind: str
    draws: Draws
    batch: int
    schedule: LearnedSchedule
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
    def panel(self) -> Panel:
        assert self.setup.gate is not None
        return self.setup.gate.panel(self.setup.place.device)

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        return self.setup.fit.made() if self.setup.fit else {}

    def encode(self, images: np.ndarray, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        return self.setup.fit.seen(self.encoders, images, prompts) if self.setup.fit else {}

    @cached_property
    def decoder(self) -> Decoder:
        return Decoder(self.setup.vae, self.sampler.manifest.latents, self.setup.place.device)

    def open(self, folder: Path) -> Sampler:
        return open_sampler(folder, self.setup.place)

    def objective(self, draws: Draws) -> Objective:
        if draws not in self.objectives:
            self.objectives[draws] = Objective(
                self.sampler, self.judge, draws, self.setup.stock, self.full,
                self.setup.compare, self.encode,
            )  # fmt: skip
        return self.objectives[draws]

    def do(self, job: Job) -> Done[Result]:
        start = time.perf_counter()
        found = getattr(self, job.kind)(self.objective(job.draws), job)
        return Done(found, time.perf_counter() - start)

    def scores(self, objective: Objective, job: Job) -> Scored:
        return Scored(objective.scores(objective.batches[job.batch], job.schedule))

    def looks(self, objective: Objective, job: Job) -> Looked:
        """The scores, and what the gate's judges say of the same pictures and, where there are any, of full
        precision's."""
        batch = objective.batches[job.batch]
        beside = objective.drawn_in_full(batch) if self.full else None
        drawn = replace(objective.drawn(batch, job.schedule), beside=beside)
        full = self.panel.look(replace(beside, beside=beside)) if beside else None
        return Looked(objective.scores_of(batch, drawn), self.panel.look(drawn), full)

    def gradient(self, objective: Objective, job: Job) -> Gradient:
        assert job.loss is not None
        batch = objective.batches[job.batch]
        return Gradient(*batch_gradient(objective, self.decoder, batch, job.schedule, job.loss, job.jacobian))

    def pairs(self, objective: Objective, job: Job) -> Moments:
        return Moments(batch_statistics(objective, objective.batches[job.batch]))

    @property
    def passes(self) -> int:
        return sum(o.sampler.passes for o in self.objectives.values())
