"""The pictures of one prompt set, asked for by candidate: what the journal has is not computed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.calibrate.draws import Draws
from qsched_edge.calibrate.engines import Engine
from qsched_edge.calibrate.jobs import Job
from qsched_edge.calibrate.results import Done, Gradient, Looked, Moments, R, Scored, joined
from qsched_edge.jaq.loss import Loss, Scores
from qsched_edge.work.journal import Journal
from qsched_edge.work.staging import digest


class Readable(Protocol[R]):
    """A class of results."""

    def of(self, stored: Mapping[str, Any]) -> R: ...


@dataclass(frozen=True)
class Pictures:
    """Prompts with their noise, an engine that draws them, a journal that remembers their scores."""

    engine: Engine
    journal: Journal
    draws: Draws

    def scores(self, candidates: Sequence[LearnedSchedule]) -> Iterator[tuple[Scores, float]]:
        """Raw terms of all pictures of each candidate, in order, with the seconds they took when computed."""
        batches = range(len(self.draws.sizes))
        results = self.results([Job("scores", self.draws, b, c) for c in candidates for b in batches], Scored)
        for _ in candidates:
            parts = [next(results) for _ in batches]
            yield joined([p.result.scores for p in parts]), sum(p.seconds for p in parts)

    def gradient(
        self, candidate: LearnedSchedule, batches: Sequence[int], loss: Loss, jacobian: str
    ) -> tuple[float, np.ndarray, float]:
        """(mean loss, its gradient float64 [3, steps, channels], seconds) over some batches."""
        jobs = [Job("gradient", self.draws, b, candidate, loss, jacobian) for b in batches]
        total, seconds, gradient = 0.0, 0.0, np.zeros(())
        for done in self.results(jobs, Gradient):
            total, seconds = total + done.result.total, seconds + done.seconds
            gradient = gradient + done.result.gradient
        count = sum(self.draws.sizes[b] for b in batches)
        return total / count, gradient / count, seconds

    def looks(self, candidate: LearnedSchedule) -> Looked:
        """The scores, and what the gate's judges say of the candidate's pictures, and of full precision's if they are
        drawn: all of the same pictures, drawn once."""
        jobs = [Job("looks", self.draws, b, candidate) for b in range(len(self.draws.sizes))]
        return Looked.joined([done.result for done in self.results(jobs, Looked)])

    def moments(self, batch: int, stock: LearnedSchedule) -> tuple[np.ndarray, float]:
        """(paired moments float64 [MOMENTS, steps, channels], seconds) of one batch."""
        (done,) = self.results([Job("pairs", self.draws, batch, stock)], Moments)
        return done.result.moments, done.seconds

    def results(self, jobs: Sequence[Job], kind: Readable[R]) -> Iterator[Done[R]]:
        """In the order of the jobs, whoever computed them and when."""
        keys = [self.key_of(job) for job in jobs]
        # each once: the journal takes one answer for a key, and a second would go to the next key
        missing = {digest(k): j for j, k in zip(jobs, keys, strict=True) if k not in self.journal}
        computed = self.engine.run(list(missing.values()))
        for key in keys:
            stored = self.journal.recall(key, lambda: next(computed).json())
            yield Done(kind.of(stored), stored["seconds"])

    def key_of(self, job: Job) -> list[Any]:
        """What the result depends on: the batch's own prompts and noise, so that sets which overlap share it."""
        batch = self.draws.batches[job.batch]
        loss = job.loss.json() if job.loss else None
        return [job.kind, [batch.prompts, batch.first_seed], job.schedule.json(), loss, job.jacobian]
