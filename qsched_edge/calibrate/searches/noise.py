"""How much fresh noise each step draws: c_z, a line over the steps, by scipy's COBYQA."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.searches.space import line
from qsched_edge.calibrate.searches.trust import maximise


def search(problem: Problem) -> None:
    """Two numbers: c_z at the first and at the last step that draws noise. Nothing to do where none does."""
    drawing = int((problem.start.table.c != 0).sum())
    if not drawing:
        return
    ends = min(2, drawing)

    def score(values: np.ndarray) -> float:
        return problem.score(noisier(problem.start, line(values[0], values[-1], drawing)))

    maximise(score, np.ones(ends), radius=0.05, precision=0.01, questions=14)


def noisier(schedule: LearnedSchedule, c_z: np.ndarray) -> LearnedSchedule:
    """The fresh noise of each step that draws any, times `c_z` float64 [such steps]."""
    c = schedule.table.c.copy()
    c[c != 0] *= c_z
    return replace(schedule, table=replace(schedule.table, c=c))
