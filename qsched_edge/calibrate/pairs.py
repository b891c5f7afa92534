"""Paired passes: the quantized and the full-precision network on the same inputs, summed up for the closed forms."""

from __future__ import annotations

import numpy as np

from qsched_edge.calibrate.objective import Batch, Objective

MOMENTS = ("count", "x", "e", "q", "xx", "ee", "qq", "xe", "xq", "eq")


def batch_statistics(objective: Objective, batch: Batch) -> np.ndarray:
    """float64 [MOMENTS, steps, channels]: sums over pictures and pixels of x, e (full precision), q (quantized) and
    their products, along full precision's own stock trajectory."""
    schedule = objective.stock.folded()
    rows = []
    for step in objective.full_precision(batch):
        x_in = schedule.scale_model_input(step.x, step.i)
        q = objective.sampler.network_output(x_in, schedule.table.timesteps[step.i], batch.conditioning)
        rows.append(sums(*(v.astype(np.float64) for v in (step.x, step.e, q))))
    return np.stack(rows, axis=1)


def sums(x: np.ndarray, e: np.ndarray, q: np.ndarray) -> np.ndarray:
    """[B, C, h, w] each -> [MOMENTS, C]."""
    products = (np.ones_like(x), x, e, q, x * x, e * e, q * q, x * e, x * q, e * q)
    return np.stack([p.sum(axis=(0, 2, 3)) for p in products])
