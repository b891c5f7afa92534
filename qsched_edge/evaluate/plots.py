"""The ablation's plots as PNG files in memory, by matplotlib without a display.

Colours are Okabe and Ito's, which colour-blind readers tell apart, and every line has a marker of its own. `dark` draws
the same for a dark page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from typing import Any

import numpy as np

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#000000")
DARK = ("#56b4e9", "#e69f00", "#2fc79b", "#e7a5cb", "#f0e442", "#8fb8ff", "#ffffff")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
PAGE = {False: ("#ffffff", "#1c1c1a"), True: ("#151514", "#edece8")}  # paper and ink
QUIET = "#8a8880"


def curves(rows: Sequence[Mapping[str, Any]], dark: bool = False) -> bytes:
    """Best held-out JAQ so far against network passes, a line for each search, its last gain with an interval."""
    figure, axes = empty("network passes", "held-out JAQ, less the stock schedule's", dark)
    for row, style in zip(rows, styles(dark), strict=False):
        passes, values = [p[0] for p in row["curve"]], np.array([p[2] for p in row["curve"]], float)
        held, last = values - values[0], max(row["passes"], passes[-1])
        axes.step([*passes, last], [*held, held[-1]], where="post", label=row["name"], markersize=4, **style)
        gain = row["gains"]["jaq"]
        if gain:
            ends = np.abs(np.array([[gain["low"]], [gain["high"]]]) - gain["estimate"])
            axes.errorbar([last], [gain["estimate"]], ends, color=style["color"], capsize=3, linewidth=1)
    counted(axes)
    axes.axhline(0, color=QUIET, linewidth=0.8)
    legend(axes, dark)
    return png(figure)


def surface(axis: Sequence[float], mean: Sequence[Sequence[float | None]], dark: bool = False) -> bytes:
    """Fit JAQ over the paper's two numbers, c = 1 (a cross) and the best point (a star) marked."""
    figure, axes = empty("first c_eps", "first c_x", dark)
    values = np.array(mean, float)  # None, a broken picture's, is NaN and stays blank
    shown = axes.contourf(axis, axis, values, levels=20) if min(values.shape) > 1 else axes.imshow(values)
    bar = figure.colorbar(shown)
    bar.set_label("fit JAQ", color=PAGE[dark][1])
    bar.ax.tick_params(colors=PAGE[dark][1])
    s, m = np.unravel_index(np.nanargmax(values), values.shape)
    axes.plot(1, 1, "+", color="white", markersize=12, markeredgewidth=2)
    axes.plot(axis[int(m)], axis[int(s)], "*", color="white", markeredgecolor="black", markersize=14, clip_on=False)
    return png(figure)


def with_intervals(rows: Sequence[Mapping[str, Any]], xlabel: str, dark: bool = False) -> bytes:
    """Held-out JAQ gain of some rows with its 95 % interval."""
    figure, axes = empty(xlabel, "held-out JAQ gain", dark)
    rows = [row for row in rows if row["gains"]["jaq"]]
    gains = [row["gains"]["jaq"] for row in rows]
    middle = np.array([g["estimate"] for g in gains])
    spread = np.abs(np.array([[g["low"] for g in gains], [g["high"] for g in gains]]) - middle)
    axes.errorbar([row["name"] for row in rows], middle, spread, fmt="o", capsize=4, color=(DARK if dark else LIGHT)[0])
    axes.axhline(0, color=QUIET, linewidth=0.8)
    return png(figure)


def against(rows: Sequence[Mapping[str, Any]], dark: bool = False) -> bytes:
    """The second judge's Fréchet distance over JAQ, both as differences to c = 1 with their intervals."""
    figure, axes = empty("JAQ over c = 1", "Fréchet distance over c = 1 (less is better)", dark)
    for row, style in zip(rows[1:], styles(dark), strict=False):
        x, y = (row["differences"][name] for name in ("jaq", "frechet"))
        ends = [[[d["estimate"] - d["low"]], [d["high"] - d["estimate"]]] for d in (x, y)]
        label = row["name"].rpartition(": ")[2] if row["name"].startswith("searches") else row["name"]
        at = x["estimate"], y["estimate"]
        axes.errorbar(*at, ends[1], ends[0], capsize=2, label=label, linestyle="none", linewidth=1, **style)
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.axvline(0, color=QUIET, linewidth=0.8)
    legend(axes, dark)
    return png(figure)


def styles(dark: bool) -> Iterator[dict[str, Any]]:
    """A colour and a marker for each line: seven colours and nine markers meet again after 63."""
    return ({"color": c, "marker": m} for c, m in zip(cycle(DARK if dark else LIGHT), cycle(MARKERS), strict=False))


def counted(axes: Any) -> None:
    """Numbers of passes along x, evenly in their logarithm."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def empty(xlabel: str, ylabel: str, dark: bool = False) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    paper, ink = PAGE[dark]
    figure = Figure(figsize=(6.4, 4.4), dpi=120, layout="constrained", facecolor=paper)
    axes = figure.add_subplot(facecolor=paper)
    axes.set_xlabel(xlabel, color=ink)
    axes.set_ylabel(ylabel, color=ink)
    axes.tick_params(colors=ink, which="both")
    axes.spines[:].set_color(QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(axes: Any, dark: bool) -> None:
    """Beside the axes, so that it covers nothing."""
    axes.legend(
        fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, labelcolor=PAGE[dark][1], borderaxespad=0.5
    )


def png(figure: Any) -> bytes:
    """Without the date and version that would make two like files differ."""
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
