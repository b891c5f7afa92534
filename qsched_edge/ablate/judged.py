"""The independent judge on an ablation: what the calibration has never seen, for every claim that rests on pictures.

Each candidate draws the same held-out prompts from the same noise, on the quantized network or on full precision. It is
compared with c = 1 on the same network and, on the quantized one, with the gap that quantization opened. Every measure
is taken on the same resamples of the prompts, so that all differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Sampler

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.evaluate.cells import CELL, Asked, Cell, write_cell
from qsched_edge.evaluate.contrasts import contrast
from qsched_edge.intervals import percentiles, resamples
from qsched_edge.jaq.judges import Look, Reading
from qsched_edge.jaq.loss import Loss
from qsched_edge.jaq.panel import Panel, Resampled
from qsched_edge.work import progress
from qsched_edge.work.staging import Staging, digest

FULL, QUANTIZED, PLAIN = "full precision", "quantized", "c = 1"
JAQ, FITTED = "jaq", "terms"  # the loss, of what the judge of its terms says
JAQ_READING = Reading("JAQ", "JAQ", True, "{:.3f}", "{:+.3f}")
FEW_RESAMPLES = 200


@dataclass(frozen=True)
class Candidate:
    """A schedule to draw with on one network: `precision` is FULL or QUANTIZED."""

    precision: str
    name: str
    schedule: LearnedSchedule


@dataclass(frozen=True)
class Judges:
    """Both networks, who judges which held-out prompts, and JAQ in its units."""

    samplers: Mapping[str, Sampler]
    asked: Asked
    jaq: Loss

    @property
    def readings(self) -> dict[str, Reading]:
        """Of every measure by name: the report's judges', then JAQ; its terms stand in the other tables."""
        judges = {name: judge for name, judge in self.asked.panel.judges.items() if name != FITTED}
        return {**Panel(judges).readings, JAQ: JAQ_READING}


def candidates_of(
    rows: Sequence[Mapping[str, Any]], stock: LearnedSchedule, both: Sequence[str], full: bool
) -> list[Candidate]:
    """c = 1 on both networks, then each row on the quantized one; those whose names are in `both` on either.

    A bundle in `full` precision has that one network only.
    """
    networks = (FULL,) if full else (FULL, QUANTIZED)
    found = [Candidate(precision, PLAIN, stock) for precision in networks]
    for row in rows:
        schedule = LearnedSchedule.read(row["schedule"])
        name = f"{row['group']}: {row['name']}"
        found += [Candidate(p, name, schedule) for p in networks if p == networks[-1] or name in both]
    return found


def judged(
    panel: Judges, candidates: Sequence[Candidate], staging: Staging, part: str, quiet: bool
) -> list[dict[str, Any]]:
    """A row for each candidate: its measures, their differences to its base, the share of the gap that it closes."""
    found: dict[str, Mapping[str, Look]] = {}
    keys = [f"{part}-{digest([c.precision, c.schedule.json()])[:16]}" for c in candidates]
    total = len(set(keys)) * len(panel.asked.prompts) * panel.asked.seeds
    first: Path | None = None
    with progress.bar("judges of the report", total, "images", quiet) as advance:
        for key, candidate in zip(keys, candidates, strict=True):
            if key not in found:
                drawing = panel.samplers[candidate.precision], candidate.schedule
                folder = staging.part(
                    key, partial(write_cell, *drawing, asked=panel.asked, advance=advance, beside=first)
                )
                first = first or folder  # full precision at c = 1
                found[key] = Cell.load(folder / CELL).looks
    sampled = {key: measured(panel, looks, found[keys[0]]) for key, looks in found.items()}
    of = {(c.precision, c.name): sampled[key] for key, c in zip(keys, candidates, strict=True)}
    return [row_of(c, of) for c in candidates]


def measured(panel: Judges, looks: Mapping[str, Look], beside: Mapping[str, Look]) -> Resampled:
    """Every measure and JAQ, on all prompts and on resamples of them."""
    asked = panel.asked
    prompts = len(asked.prompts)
    jaq = np.asarray(panel.jaq(looks[FITTED].values)).reshape(prompts, -1).mean(axis=1)
    choices = np.concatenate([np.arange(prompts)[None], resamples(prompts, 0, FEW_RESAMPLES)])
    found = asked.panel.sampled(looks, prompts, beside, FEW_RESAMPLES)
    return {**{m: found[m] for m in panel.readings if m in found}, JAQ: jaq[choices].mean(axis=1)}


def row_of(candidate: Candidate, of: Mapping[tuple[str, str], Resampled]) -> dict[str, Any]:
    """The base is c = 1 on the same network; c = 1 on the quantized one is itself compared with full precision."""
    here, full = of[candidate.precision, candidate.name], of[FULL, PLAIN]
    plain = of[candidate.precision, PLAIN]
    base = full if candidate.name == PLAIN else plain
    row = {
        "precision": candidate.precision,
        "name": candidate.name,
        "means": {m: float(values[0]) for m, values in here.items()},
        "differences": contrast(here, base),
    }
    if candidate.precision == QUANTIZED and candidate.name != PLAIN:
        row["closed"] = {m: closed(here[m], plain[m], full[m]) for m in here}
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
