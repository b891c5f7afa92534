"""Which timesteps the network is asked at: the stock scheduler's table at others, with the first one kept.

A few-step student is better at some noise levels than at others, and its scheduler was written before anyone knew.
First the steps are spread evenly down to several last timesteps; then, beginning with the last step, each moves by
itself. A later step is cheap to move, since all outputs before it are remembered.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.calibrate.search import Problem

LAST = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # the last timestep, as a share of the first
SWEEPS = (0.5, 0.25)  # how far a step moves, as a share of its way to the next one


def search(problem: Problem) -> None:
    """Nothing to do for one step, whose timestep is the noise it starts from."""
    if problem.steps < 2:
        return
    first = problem.start.table.timesteps[0]
    evenly = [np.linspace(first, share * first, problem.steps) for share in LAST]
    scores = dict(zip(map(tuple, evenly), problem.scores([at(problem, t) for t in evenly]), strict=True))
    own = tuple(problem.start.table.timesteps)
    scores[own] = problem.score(problem.start)
    best = np.array(max(scores, key=lambda t: scores[t]))
    for share in SWEEPS:
        for i in reversed(range(1, problem.steps)):
            best = moved(problem, best, i, share)


def moved(problem: Problem, timesteps: np.ndarray, i: int, share: float) -> np.ndarray:
    """The best of `timesteps`, and those with step i nearer to the one before it or to the one after."""
    ends = timesteps[i - 1], timesteps[i + 1] if i + 1 < len(timesteps) else 0.0
    tried = [timesteps]
    for end in ends:
        other = timesteps.copy()
        other[i] += share * (end - timesteps[i])
        tried.append(other)
    scores = problem.scores([at(problem, t) for t in tried])
    return tried[int(np.argmax(scores))]


def at(problem: Problem, timesteps: np.ndarray) -> LearnedSchedule:
    """Where the search starts, at other timesteps; whole ones where the stock scheduler's are."""
    stock = problem.stock.table.timesteps
    whole = bool((stock == np.round(stock)).all()) and stock[0] > 1
    return replace(problem.start, table=problem.retimed(np.round(timesteps) if whole else timesteps))
