"""What every search is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Coefficients

from qsched_edge.calibrate.journal import Journal
from qsched_edge.calibrate.objective import Objective
from qsched_edge.jaq.loss import JAQ, Scores


@dataclass(frozen=True)
class Proposal:
    """A search's best coefficients, their mean JAQ on the fitting prompts, the network passes it took."""

    search: str
    coefficients: Coefficients
    fit_jaq: float
    passes: int


@dataclass(frozen=True)
class Problem:
    """The fitting prompts' objective with its normalised JAQ; scores already in the journal cost nothing."""

    objective: Objective
    jaq: JAQ
    journal: Journal
    vae: Path  # the VAE's diffusers folder, for its differentiable decoder
    points: int
    iterations: int
    quiet: bool

    @property
    def steps(self) -> int:
        return self.objective.steps

    def fit_jaq(self, coefficients: Coefficients) -> float:
        return float(self.jaq.of(recalled_scores(self.journal, self.objective, coefficients)).mean())

    def passes_of(self, candidates: int) -> int:
        return candidates * self.steps * sum(len(b.prompts) for b in self.objective.batches)

    def progress(self, title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        from qsched_edge import progress

        return progress.bar(title, total, "candidates", self.quiet)


def key_of(coefficients: Coefficients) -> list[Any]:
    return [coefficients.c_x.tolist(), coefficients.c_eps.tolist()]


def recalled_scores(journal: Journal, objective: Objective, coefficients: Coefficients) -> Scores:
    """Scores of all pictures, computed unless the journal has them."""

    def compute() -> list[list[float]]:
        scores = objective.scores(coefficients)
        return [scores.text_image.tolist(), scores.quality.tolist()]

    prompts = [[b.prompts, b.seeds] for b in objective.batches]
    tc, iq = journal.recall(["scores", prompts, key_of(coefficients)], compute)
    return Scores(np.array(tc), np.array(iq))
