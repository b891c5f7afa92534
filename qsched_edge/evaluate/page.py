"""The report as one self-contained HTML page: a sentence, pictures, what the judges say, and the rest folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qsched_edge.calibrate.record import numbers
from qsched_edge.evaluate.effects import (
    CALIBRATED,
    FULL,
    PLAIN,
    Effect,
    is_calibrated,
    of_calibration,
    of_quantization,
)
from qsched_edge.evaluate.html import picture, render
from qsched_edge.evaluate.text import span

TITLES = {FULL: "full precision", PLAIN: "quantized", CALIBRATED: "calibrated"}  # of the cells that are shown
WORDS = {
    "report": {1: "better", -1: "worse"},
    "loss": {1: "more", -1: "less"},
    "nearness": {1: "nearer", -1: "farther"},
}
HALF, ROW = 190, 24  # of a plot: units from zero to the longest interval's end, and height of a mark


def page(report: Mapping[str, Any], prompts: Sequence[str], pictures: Mapping[str, np.ndarray]) -> str:
    """HTML text; `pictures` holds uint8 [shown, H, W, 3] for each cell, of the first prompts. A bundle whose stock
    schedule ships has no third picture: it would be the second again."""
    calibrated = is_calibrated(report)
    titles = {cell: title for cell, title in TITLES.items() if calibrated or cell != CALIBRATED}
    record = report["calibration"]
    c_z = {"c_z": record["c_z"]} if calibrated and "c_z" in record else {}
    coefficients = {n: [numbers([v]) for v in column] for n, column in {**c_z, **report["coefficients"]}.items()}
    stock = "with the stock schedule"
    notes = {
        FULL: stock,
        PLAIN: f"{report['scheme']}, {stock}",
        CALIBRATED: f"{report['scheme']}, with its own schedule",
    }
    columns = {title: pictures[cell] for cell, title in titles.items()}
    return render(
        "evaluate/report.html.j2", report=report, calibrated=calibrated, cells=list(report["cells"]),
        shown=rows_of(prompts, columns), notes=[notes[cell] for cell in titles],
        verdicts=verdicts(report), metrics=metric_rows(report), gains=gain_rows(report), coefficients=coefficients,
    )  # fmt: skip


def rows_of(prompts: Sequence[str], pictures: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each prompt, with a picture for every column, as far as there are pictures."""
    count = len(next(iter(pictures.values())))
    return [
        {"prompt": prompt, "pictures": [picture(p[i], title, prompt) for title, p in pictures.items()]}
        for i, prompt in enumerate(prompts[:count])
    ]


def verdicts(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure: what quantization and calibration did to it, drawn with better on the right."""
    quantization = {e.measure: e for e in of_quantization(report)}
    calibration = {e.measure: e for e in of_calibration(report) if is_calibrated(report)}
    rows = []
    for name, reading in report["judges"]["measures"].items():
        pair = {"quantization": quantization.get(name), "calibration": calibration.get(name)}
        if pair["quantization"] and pair["quantization"].judge == "nearness":
            pair["quantization"] = None  # from full precision's own distance to itself: no effect to compare with
        found = {kind: e for kind, e in pair.items() if e}
        value = reading["form"].format(report["cells"][PLAIN].get(name, np.nan))
        note = {"loss": "a term of the loss", "report": ""}.get(kind_of(name, report), f"quantized: {value}")
        if found:
            rows.append({"label": titled(reading), "note": note, **drawn(found)})
        elif name in report["cells"][PLAIN]:
            rows.append({"label": titled(reading), "note": note, **drawn({})})
    return rows


def kind_of(measure: str, report: Mapping[str, Any]) -> str:
    return Effect(measure, report["judges"]["measures"][measure], 0.0, None, None).judge


def drawn(found: Mapping[str, Effect]) -> dict[str, Any]:
    """Marks in a plot 400 units wide whose middle is zero, the longest interval just inside."""
    ends = [abs(v) for e in found.values() for v in e.gain if v is not None]
    scale = HALF / (max(ends, default=0.0) or 1.0)
    marks = []
    for i, (kind, effect) in enumerate(found.items()):
        x, low, high = (None if v is None else round(200 + scale * v, 1) for v in effect.gain)
        text = span({"estimate": effect.estimate, "low": effect.low, "high": effect.high}, effect.reading["signed"])
        marks.append({
            "kind": kind, "x": x, "low": low, "high": high, "y": ROW * i + ROW // 2, "text": text,
            "word": WORDS[effect.judge].get(effect.verdict, "")
        })  # fmt: skip
    says = "; ".join(f"{m['kind']} {m['text']} {m['word']}".strip() for m in marks)
    return {"marks": marks, "height": ROW * max(len(marks), 1), "says": says or "no difference to draw"}


def metric_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure: every cell's value and its difference to the base."""
    return [
        {
            "title": titled(m),
            "values": [m["form"].format(cell[name]) if name in cell else "" for cell in report["cells"].values()],
            "differences": [
                span(report["differences"][cell][name], m["signed"])
                if name in report["differences"].get(cell, {})
                else ""
                for cell in report["cells"]
            ],
        }
        for name, m in report["judges"]["measures"].items()
    ]


def gain_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure: what calibration gains on each network, and on one beyond the other."""
    return [
        {
            "title": titled(m),
            "values": [span(g[name], m["signed"]) if name in g else "" for g in report["calibration_gains"].values()],
        }
        for name, m in report["judges"]["measures"].items()
    ]


def titled(measure: Mapping[str, Any]) -> str:
    return measure["label"] if measure["more_is_better"] else f"{measure['label']} (less is better)"
