"""The report as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from qsched_edge.evaluate.contrasts import BEYOND

BACKBONES = {"unet", "transformer"}


def text_table(report: Mapping[str, Any]) -> str:
    """The report's sentence, then a row for each measure: the four cells, what calibration gains, and bytes."""
    measures, names = report["judges"]["measures"], list(report["cells"])
    width = max(len(m["label"]) for m in measures.values())
    head = "  ".join([" " * width, *(f"{name.replace('full precision', 'full'):>21}" for name in names)])
    rows = [*textwrap.wrap(report["sentence"], 100), "", head, "-" * len(head)]
    for name, m in measures.items():
        values = [m["form"].format(c[name]) if name in c else "" for c in report["cells"].values()]
        rows.append("  ".join([f"{m['label']:{width}}", *(f"{v:>21}" for v in values)]))
    rows.append("what calibration gains (calibrated - c = 1), 95 % intervals")
    for kind, gains in report["calibration_gains"].items():
        rows += [f"  {kind}, {measures[m]['short']}: {span(d, measures[m]['signed'])}" for m, d in gains.items()]
    rows.append(f"({BEYOND}: what calibration gains beyond what it gains where nothing was quantized)")
    rows.append(bytes_line(report["sizes"]))
    return "\n".join(rows)


def bytes_line(sizes: Mapping[str, Any]) -> str:
    backbone = next(iter(set(sizes["components"]) & BACKBONES))
    ratio, whole = sizes["components"][backbone]["ratio"], sizes["bundle"]
    return (
        f"bytes: {backbone} {ratio:.2f} times smaller than FP16, bundle {whole['bytes']:,} = {whole['ratio']:.2f} times"
    )


def span(difference: Mapping[str, float | None] | None, form: str) -> str:
    """An estimate and its interval; one prompt has none."""
    if difference is None:
        return "not finite"
    estimate, low, high = (difference[k] for k in ("estimate", "low", "high"))
    if low is None:
        return form.format(estimate)
    return f"{form.format(estimate)} [{form.format(low)}, {form.format(high)}]"
