"""The ablation's plots as PNG files in memory, by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np


def curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Best held-out JAQ so far against network passes, one line for each search."""
    figure, axes = empty("network passes", "held-out JAQ over c = 1")
    for row in rows:
        passes, values = [p[0] for p in row["curve"]], np.array([p[2] for p in row["curve"]], float)
        held = values - values[0]
        axes.step(
            [*passes, max(row["passes"], passes[-1])], [*held, held[-1]], where="post", marker=".", label=row["name"]
        )
    axes.set_xscale("log")
    axes.axhline(0, color="gray", linewidth=0.6)
    axes.legend(fontsize=8)
    return png(figure)


def surface(axis: Sequence[float], mean: Sequence[Sequence[float | None]]) -> bytes:
    """Fit JAQ over the paper's two numbers, c = 1 and the best point marked."""
    figure, axes = empty("first c_eps", "first c_x")
    values = np.array(mean, float)  # None, a broken picture's, is NaN and stays blank
    shown = axes.contourf(axis, axis, values, levels=20) if min(values.shape) > 1 else axes.imshow(values)
    figure.colorbar(shown, label="fit JAQ")
    s, m = np.unravel_index(np.nanargmax(values), values.shape)
    axes.plot(1, 1, "w+", markersize=12)
    axes.plot(axis[int(m)], axis[int(s)], "r*", markersize=12)
    return png(figure)


def with_intervals(rows: Sequence[Mapping[str, Any]], xlabel: str) -> bytes:
    """Held-out JAQ gain of some rows with its 95 % interval."""
    figure, axes = empty(xlabel, "held-out JAQ gain")
    rows = [row for row in rows if row["gains"]["jaq"]]
    gains = [row["gains"]["jaq"] for row in rows]
    middle = np.array([g["estimate"] for g in gains])
    spread = np.abs(np.array([[g["low"] for g in gains], [g["high"] for g in gains]]) - middle)
    axes.errorbar([row["name"] for row in rows], middle, spread, fmt="o", capsize=4)
    axes.axhline(0, color="gray", linewidth=0.6)
    return png(figure)


def against(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The second judge's Fréchet distance over JAQ, both as differences to c = 1 with their intervals."""
    figure, axes = empty("JAQ over c = 1", "Fréchet distance over c = 1 (less is better)")
    for row in rows[1:]:
        x, y = (row["differences"][name] for name in ("jaq", "frechet"))
        ends = [[[d["estimate"] - d["low"]], [d["high"] - d["estimate"]]] for d in (x, y)]
        label = row["name"].rpartition(": ")[2] if row["name"].startswith("searches") else row["name"]
        axes.errorbar(x["estimate"], y["estimate"], ends[1], ends[0], fmt="o", capsize=2, label=label)
    axes.axhline(0, color="gray", linewidth=0.6)
    axes.axvline(0, color="gray", linewidth=0.6)
    axes.legend(fontsize=7)
    return png(figure)


def empty(xlabel: str, ylabel: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def png(figure: Any) -> bytes:
    """Without the date and version that would make two like files differ."""
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
