"""Both ends of each line free: four numbers, by scipy's COBYQA."""

from __future__ import annotations

import numpy as np
from qsched_runtime import Coefficients

from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.searches.space import line
from qsched_edge.calibrate.searches.trust import maximise


def search(problem: Problem) -> None:
    """Numbers: c_x at the first and the last step, c_eps likewise; one step has its first ends only."""

    def candidate(ends: np.ndarray) -> Coefficients:
        return Coefficients(line(ends[0], ends[1], problem.steps), line(ends[2], ends[3], problem.steps))

    maximise(
        lambda ends: problem.score(problem.at(candidate(ends))), np.ones(4), radius=0.05, precision=0.001, questions=80
    )
