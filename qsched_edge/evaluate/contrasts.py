"""What sets cells apart: every measure on the same resamples of the prompts, so that differences are paired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from qsched_edge.evaluate.cells import Cell, metric_names
from qsched_edge.intervals import percentiles, resamples
from qsched_edge.jaq.frechet import Frechet, flat

CELLS = ("full precision, c = 1", "full precision, calibrated", "quantized, c = 1", "quantized, calibrated")
BASE = CELLS[2]  # differences are taken against the quantized model without coefficients
BEYOND = "quantized - full precision"  # how much more calibration gains where something was quantized
FRECHET_RESAMPLES = 200

Sampled = Mapping[str, np.ndarray]  # each measure on all prompts, then on resamples of them: float64 [1 + resamples]


def compared(cells: Mapping[str, Cell], frechet: Frechet) -> dict[str, Any]:
    """The means of each cell, what sets the others apart from the quantized model at c = 1, and what calibration gains
    on each network and on the quantized one beyond the other."""
    sampled = {name: measures(cell, frechet) for name, cell in cells.items()}
    full, full_calibrated, plain, calibrated = (sampled[name] for name in CELLS)
    return {
        "cells": {name: {m: float(values[0]) for m, values in found.items()} for name, found in sampled.items()},
        "differences": {name: contrast(sampled[name], plain) for name in CELLS if name != BASE},
        "calibration_gains": {
            "full precision": contrast(full_calibrated, full),
            "quantized": contrast(calibrated, plain),
            BEYOND: contrast(less(calibrated, plain), less(full_calibrated, full)),
        },
    }


def measures(cell: Cell, frechet: Frechet) -> Sampled:
    """Means of the metrics and the Fréchet distance to the real pictures; a prompt keeps all its seeds."""
    prompts = len(cell.features)
    whole = np.arange(prompts)[None]
    rows = np.concatenate([whole, resamples(prompts, 0)])
    means = {m: cell.metrics[m].mean(axis=1)[rows].mean(axis=1) for m in metric_names()}
    few = np.concatenate([whole, resamples(prompts, 0, FRECHET_RESAMPLES)])
    return {**means, "frechet": np.array([frechet(flat(cell.features[some])) for some in few])}


def differences(cell: Cell, base: Cell, frechet: Frechet) -> dict[str, dict[str, float]]:
    """cell - base for every measure, with intervals."""
    return contrast(measures(cell, frechet), measures(base, frechet))


def contrast(after: Sampled, before: Sampled) -> dict[str, dict[str, float]]:
    """after - before for every measure: the estimate and the ends of its 95 % interval."""
    return {m: asdict(percentiles(d[0], d[1:])) for m, d in less(after, before).items()}


def less(after: Sampled, before: Sampled) -> Sampled:
    return {m: after[m] - before[m] for m in before}
