"""The ablation's report as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.resources import files
from itertools import groupby
from typing import Any

import numpy as np

from qsched_edge.ablate.settings import COUNTS, EQUAL_PASSES
from qsched_edge.evaluate import plots
from qsched_edge.evaluate.page import data_uri, difference, titled
from qsched_edge.evaluate.text import span
from qsched_edge.jaq.terms import TERMS

BASE = "full precision"  # what difference images compare with


def page(report: Mapping[str, Any], pictures: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """HTML text; `pictures` holds, for each bundle, uint8 [shown, H, W, 3] by column."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("qsched_edge.ablate").joinpath("ablation.html.j2").read_text("utf-8"))
    sections = [section_of(name, section, pictures[name]) for name, section in report["bundles"].items()]
    titles = ["JAQ", *(term.short for term in TERMS.values())]
    return template.render(report=report, sections=sections, titles=titles)


def section_of(name: str, section: Mapping[str, Any], pictures: Mapping[str, np.ndarray]) -> dict[str, Any]:
    groups = [
        {"title": title, "rows": [cells_of(r) for r in rows]}
        for title, rows in groupby(section["rows"], key=lambda r: r["group"])
    ]
    return {
        "name": name,
        "budget": section["budget"],
        "groups": groups,
        "judged": [judged_of(row, section["measures"]) for row in section["judged"]],
        "measures": [titled(m) for m in section["measures"].values()],
        "left_out": section["left_out"],
        "plots": {title: png_uri(data) for title, data in drawings_of(section).items()},
        "columns": list(pictures),
        "shown": [shown_row(prompt, i, pictures) for i, prompt in enumerate(section["prompts"])],
    }


def drawings_of(section: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG files by title, for the groups of rows that are there."""
    of = {title: [r for r in section["rows"] if r["group"] == title] for title in (EQUAL_PASSES, COUNTS)}
    drawings = {}
    if of[EQUAL_PASSES]:
        drawings["Best held-out JAQ so far against passes"] = plots.curves(of[EQUAL_PASSES])
        drawings["JAQ on the paper's grid"] = plots.surface(section["surface"]["axis"], section["surface"]["mean"])
    if of[COUNTS]:
        drawings["How many fitting prompts"] = plots.with_intervals(of[COUNTS], COUNTS)
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


def shown_row(prompt: str, i: int, pictures: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The pictures of one prompt, each with its difference to full precision's."""
    cells = [
        {"picture": data_uri(p[i]), "difference": data_uri(difference(p[i], pictures[BASE][i]))}
        for p in pictures.values()
    ]
    return {"prompt": prompt, "cells": cells}


def png_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()
