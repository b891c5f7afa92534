"""The ablation's report as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from qsched_edge.ablate.sentence import sentence
from qsched_edge.ablate.settings import COUNTS, EQUAL_PASSES
from qsched_edge.evaluate import plots
from qsched_edge.evaluate.html import png_uri, render
from qsched_edge.evaluate.page import rows_of, titled
from qsched_edge.evaluate.text import span
from qsched_edge.jaq.terms import TERMS

NOTES = {"full precision": "stock schedule", "c = 1": "quantized, stock schedule"}  # the others are rows of the losses


def page(report: Mapping[str, Any], pictures: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """HTML text; `pictures` holds, for each bundle, uint8 [shown, H, W, 3] by column."""
    sections = [section_of(name, section, pictures[name]) for name, section in report["bundles"].items()]
    titles = ["JAQ", *(term.short for term in TERMS.values())]
    return render("ablate/ablation.html.j2", report=report, sections=sections, titles=titles)


def section_of(name: str, section: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> dict[str, Any]:
    groups = [
        {"title": title, "rows": [cells_of(r) for r in rows]}
        for title, rows in groupby(section["rows"], key=lambda r: r["group"])
    ]
    return {
        "name": name,
        "sentence": sentence(name, section),
        "budget": section["budget"],
        "groups": groups,
        "judged": [judged_of(row, section["measures"]) for row in section["judged"]],
        "measures": [titled(m) for m in section["measures"].values()],
        "left_out": section["left_out"],
        "plots": {
            title: {"light": png_uri(draw()), "dark": png_uri(draw(dark=True))}
            for title, draw in drawings_of(section).items()
        },
        "shown": rows_of(section["prompts"], pictures),
        "notes": [NOTES.get(column, "quantized, fitted to this loss") for column in pictures],
    }


def drawings_of(section: Mapping[str, Any]) -> dict[str, Callable[..., bytes]]:
    """What draws a PNG file, by title, for the groups of rows that are there."""
    of = {title: [r for r in section["rows"] if r["group"] == title] for title in (EQUAL_PASSES, COUNTS)}
    drawings: dict[str, Callable[..., bytes]] = {}
    if of[EQUAL_PASSES]:
        drawings["Best held-out JAQ so far against passes"] = partial(plots.curves, of[EQUAL_PASSES])
        grid = section["surface"]
        drawings["JAQ on the paper's grid: a cross at c = 1, a star at the best point"] = partial(
            plots.surface, grid["axis"], grid["mean"]
        )
    if of[COUNTS]:
        drawings["How many fitting prompts"] = partial(plots.with_intervals, of[COUNTS], COUNTS)
    return drawings


def judged_of(row: Mapping[str, Any], measures: Mapping[str, Any]) -> dict[str, Any]:
    """Each measure, its difference to the base, the share of quantization's gap that is closed."""
    shares = row.get("closed", {})
    cells = [
        {
            "value": m["form"].format(row["means"][name]),
            "difference": span(row["differences"][name], m["signed"]),
            "closed": span(shares[name], "{:.0%}") if shares.get(name) else "",
        }
        for name, m in measures.items()
    ]
    return {"precision": row["precision"], "name": row["name"], "cells": cells}


def cells_of(row: Mapping[str, Any]) -> dict[str, Any]:
    forms = {"jaq": "{:+.3f}"} | {name: term.signed for name, term in TERMS.items()}
    gains = [span(row["gains"][name], form) for name, form in forms.items()]
    return {"name": row["name"], "gains": gains, "passes": f"{row['passes']:,}", "spent": row["budget_spent"]}
