"""The independent judge on an ablation: what the calibration has never seen, for every claim that rests on pictures.

Each candidate draws the same held-out prompts from the same noise, on the quantized network or on full precision. It is
compared with c = 1 on the same network and, on the quantized one, with the gap that quantization opened. Every measure
is taken on the same resamples of the prompts, so that all differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from qsched_runtime import Coefficients, Sampler

from qsched_edge.calibrate.pictures import key_of
from qsched_edge.evaluate import run as evaluation
from qsched_edge.evaluate.cells import Cell
from qsched_edge.evaluate.contrasts import Sampled, contrast
from qsched_edge.intervals import percentiles, resamples
from qsched_edge.jaq.concepts import Classifier
from qsched_edge.jaq.frechet import flat
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.loss import Loss
from qsched_edge.work import progress
from qsched_edge.work.staging import Staging, digest

FULL, QUANTIZED, PLAIN = "full precision", "quantized", "c = 1"
MEASURES = ("frechet", "top1", "top5", "jaq")
RESAMPLES = 200


@dataclass(frozen=True)
class Candidate:
    """Coefficients to draw with on one network: `precision` is FULL or QUANTIZED."""

    precision: str
    name: str
    coefficients: Coefficients


@dataclass(frozen=True)
class Judges:
    """Both networks, both judges, JAQ in its units, and the held-out prompts with how many seeds each."""

    samplers: Mapping[str, Sampler]
    judges: tuple[Judge, Classifier]
    jaq: Loss
    prompts: tuple[str, ...]
    seeds: int


def candidates_of(rows: Sequence[Mapping[str, Any]], steps: int, both: Sequence[str], full: bool) -> list[Candidate]:
    """c = 1 on both networks, then each row on the quantized one; those whose names are in `both` on either.

    A bundle in `full` precision has that one network only.
    """
    networks = (FULL,) if full else (FULL, QUANTIZED)
    found = [Candidate(precision, PLAIN, Coefficients.identity(steps)) for precision in networks]
    for row in rows:
        coefficients = Coefficients(row["c_x"], row["c_eps"], row.get("bias"))
        name = f"{row['group']}: {row['name']}"
        found += [Candidate(p, name, coefficients) for p in networks if p == networks[-1] or name in both]
    return found


def judged(
    panel: Judges, candidates: Sequence[Candidate], staging: Staging, part: str, quiet: bool
) -> list[dict[str, Any]]:
    """A row for each candidate: its measures, their differences to its base, the share of the gap that it closes."""
    sampled: dict[str, Sampled] = {}
    keys = [f"{part}-{digest([c.precision, key_of(c.coefficients)])[:16]}" for c in candidates]
    total = len(set(keys)) * len(panel.prompts) * panel.seeds
    with progress.bar("second judge", total, "images", quiet) as advance:
        for key, candidate in zip(keys, candidates, strict=True):
            if key not in sampled:
                sampled[key] = measured(panel, candidate, partial(staging.part, key), advance)
    of = {(c.precision, c.name): sampled[key] for key, c in zip(keys, candidates, strict=True)}
    return [row_of(c, of) for c in candidates]


def measured(panel: Judges, candidate: Candidate, part: Callable[..., Any], advance: Callable[[int], None]) -> Sampled:
    """Draw and measure the candidate's pictures, unless an interrupted run has; then resample their prompts."""
    sampler, prompts = panel.samplers[candidate.precision], panel.prompts
    draw = partial(
        evaluation.write_cell,
        sampler,
        candidate.coefficients,
        judges=panel.judges,
        prompts=prompts,
        seeds=panel.seeds,
        advance=advance,
    )
    cell = Cell.load(part(draw) / evaluation.CELL)
    choices = [np.arange(len(prompts)), *resamples(len(prompts), 0, RESAMPLES)]
    return {m: np.array([measure(panel, cell, m, rows) for rows in choices]) for m in MEASURES}


def measure(panel: Judges, cell: Cell, name: str, rows: np.ndarray) -> float:
    """Fréchet distance, share of hits or mean JAQ over some prompts with all their seeds."""
    if name == "frechet":
        return panel.judges[1].frechet(flat(cell.features[rows]))
    if name == "jaq":
        return float(panel.jaq({n: cell.metrics[n][rows] for n in panel.jaq.weights}).mean())
    return float(cell.metrics[name][rows].mean())


def row_of(candidate: Candidate, of: Mapping[tuple[str, str], Sampled]) -> dict[str, Any]:
    """The base is c = 1 on the same network; c = 1 on the quantized one is itself compared with full precision."""
    here, full = of[candidate.precision, candidate.name], of[FULL, PLAIN]
    plain = of[candidate.precision, PLAIN]
    base = full if candidate.name == PLAIN else plain
    row = {
        "precision": candidate.precision,
        "name": candidate.name,
        "means": {m: float(here[m][0]) for m in MEASURES},
        "differences": contrast(here, base),
    }
    if candidate.precision == QUANTIZED and candidate.name != PLAIN:
        row["closed"] = {m: closed(here[m], plain[m], full[m]) for m in MEASURES}
    return row


def closed(now: np.ndarray, was: np.ndarray, goal: np.ndarray) -> dict[str, float] | None:
    """The share of the gap was -> goal that is closed: 1 is all of it, below 0 it has opened further.

    None where the gap's interval holds zero: there is nothing to close.
    """
    gap, step = centred(goal - was), centred(now - was)
    if not percentiles(gap[0], gap[1:]).excludes_zero:
        return None
    share = step / gap
    return asdict(percentiles(share[0], share[1:], shift=False))


def centred(values: np.ndarray) -> np.ndarray:
    """The resampled values around the estimate, which comes first: resamples shift a Fréchet distance."""
    return np.concatenate([values[:1], values[1:] - values[1:].mean() + values[0]])
