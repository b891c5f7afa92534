"""What sets cells apart: every measure on the same resamples of the prompts, so that differences are paired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from qsched_edge.evaluate.cells import Cell
from qsched_edge.intervals import percentiles
from qsched_edge.jaq.panel import Panel, Resampled

CELLS = ("full precision, c = 1", "full precision, calibrated", "quantized, c = 1", "quantized, calibrated")
BASE = CELLS[2]  # differences are taken against the quantized model without coefficients
BEYOND = "quantized - full precision"  # how much more calibration gains where something was quantized


def compared(cells: Mapping[str, Cell], panel: Panel, prompts: int) -> dict[str, Any]:
    """The means of each cell, what sets the others apart from the quantized model at c = 1, and what calibration gains
    on each network and on the quantized one beyond the other."""
    beside = cells[CELLS[0]].looks
    sampled = {name: panel.sampled(cell.looks, prompts, beside) for name, cell in cells.items()}
    full, full_calibrated, plain, calibrated = (sampled[name] for name in CELLS)
    gains = {"full precision": (full_calibrated, full), "quantized": (calibrated, plain)}
    gains[BEYOND] = less(calibrated, plain), less(full_calibrated, full)
    alone = prompts == 1
    return {
        "judges": {"measures": readings_json(panel, plain), "left_out": list(panel.left_out)},
        "cells": {name: means(found) for name, found in sampled.items()},
        "differences": {name: contrast(sampled[name], plain, alone) for name in CELLS if name != BASE},
        "calibration_gains": {name: contrast(*pair, alone) for name, pair in gains.items()},
    }


def means(sampled: Resampled) -> dict[str, float]:
    return {m: float(values[0]) for m, values in sampled.items()}


def contrast(after: Resampled, before: Resampled, alone: bool = False) -> dict[str, dict[str, float | None]]:
    """after - before for every measure: the estimate and the ends of its 95 % interval, which one prompt `alone` does
    not give."""
    ends: dict[str, None] = {"low": None, "high": None} if alone else {}
    return {m: {**asdict(percentiles(d[0], d[1:])), **ends} for m, d in less(after, before).items()}


def less(after: Resampled, before: Resampled) -> Resampled:
    return {m: after[m] - before[m] for m in before}


def readings_json(panel: Panel, measured: Resampled) -> dict[str, dict[str, Any]]:
    """How every measure that was taken is called, printed and read, and the judge that it belongs to; `beside` where
    full precision's own pictures are what it compares with."""
    owner = {m: name for name, judge in panel.judges.items() for m in (*judge.readings, *judge.distances)}
    aimed = {m for judge in panel.judges.values() for m, d in judge.distances.items() if d.needs_beside}
    return {
        m: {**asdict(reading), "judge": owner[m], "beside": reading.beside or m in aimed}
        for m, reading in panel.readings.items()
        if m in measured
    }
