"""One bundle's ablation in a sentence: which search gains most in the loss, and what judges say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qsched_edge.ablate.judged import JAQ, PLAIN, QUANTIZED
from qsched_edge.ablate.settings import EQUAL_PASSES, LOSS
from qsched_edge.evaluate.effects import Effect, told
from qsched_edge.evaluate.judging import TERMS_TOO
from qsched_edge.evaluate.sentence import named
from qsched_edge.evaluate.text import span


def sentence(name: str, section: Mapping[str, Any]) -> str:
    """Of the searches, or where none was asked for of the losses."""
    asked = [EQUAL_PASSES, LOSS]
    rows = next((found for group in asked if (found := gaining(section, group))), [])
    if not rows:
        return f"{name}: no search and no loss was compared."
    best = max(rows, key=lambda row: row["gains"]["jaq"]["estimate"])
    kind = "searches" if best["group"] == EQUAL_PASSES else "losses"
    gain = span(best["gains"]["jaq"], "{:+.2f}")
    first = (
        f"{name}: of {len(rows)} {kind}, {best['name']} gains most in held-out JAQ ({gain}, {best['passes']:,} passes)"
    )
    return "; ".join([first, judges_of(section, best), cost(section)]) + "."


def gaining(section: Mapping[str, Any], group: str) -> list[Mapping[str, Any]]:
    return [row for row in section["rows"] if row["group"] == group and row["gains"]["jaq"]]


def judges_of(section: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """What the judges that calibration has never seen say of a row's pictures."""
    wanted = f"{row['group']}: {row['name']}"
    found = effects_of(section, lambda r: r["name"] == wanted and r["precision"] == section["judged"][-1]["precision"])
    if not any(e.judge == "report" for e in found):
        return "no judge was at hand to say whether its pictures are better"
    sides = {"better": told(found, 1), "worse": told(found, -1)}
    parts = [f"{word} by {named(side)}" for word, side in sides.items() if side]
    return f"judges find its pictures {' and '.join(parts)}" if parts else "no judge can tell its pictures apart"


def cost(section: Mapping[str, Any]) -> str:
    found = effects_of(section, lambda r: (r["precision"], r["name"]) == (QUANTIZED, PLAIN))
    worse = told(found, -1)
    if worse:
        return f"quantization cost {named(worse)}"
    seen = any(e.judge == "report" for e in found)
    return "quantization cost nothing that a judge can tell" if seen else "nobody has said what quantization cost"


def effects_of(section: Mapping[str, Any], wanted: Any) -> list[Effect]:
    """Of the first judged row that is `wanted`, less the row that it is compared with."""
    row = next((r for r in section["judged"] if wanted(r)), None)
    if row is None:
        return []
    readings = {n: {**m, "judge": TERMS_TOO if n == JAQ else ""} for n, m in section["measures"].items()}
    return [Effect(n, reading, **row["differences"][n]) for n, reading in readings.items() if row["differences"].get(n)]
