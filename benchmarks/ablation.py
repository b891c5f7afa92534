"""The evidence's part "ablation": every search and loss of the two columns, on six widths of the embedded model.

Exports a bundle for each scheme, runs `qsched-edge ablate` on each (searches, losses, columns, numbers of prompts; the
second judge on 256 held-out prompts x 2 seeds in every cell) and makes tables and plots; what is finished is not made
again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsched_edge.ablate.judged import FULL, PLAIN, QUANTIZED
from qsched_edge.evaluate import plots

PROMPTS, SEEDS = 256, 2
BUDGET = 2400  # passes of every search but the grid
ALL = ("searches", "losses", "columns", "prompts")
EQUAL = "searches at equal passes"


@dataclass(frozen=True)
class Run:
    """One bundle and the groups of rows it is ablated with; `points` sets the grid."""

    name: str
    bits: int
    activation_bits: int = 16
    points: int = 7
    rows: tuple[str, ...] = ("searches", "losses")


RUNS = (
    Run("emoji-w32", 32, rows=("losses",)),
    Run("w4a16", 4, points=15, rows=ALL),
    Run("w4a8", 4, activation_bits=8),
    Run("w2a16", 2),
    Run("w8a8", 8, activation_bits=8, rows=("losses",)),
    Run("w3a16", 3, rows=("losses",)),
)


@dataclass(frozen=True)
class Found:
    """What a part of the evidence measured: its numbers as JSON has them, the text for each marker of the page that it
    fills, and PNG files by name."""

    numbers: Mapping[str, Any]
    texts: Mapping[str, str]
    pictures: Mapping[str, bytes]


def command(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "qsched_edge", *map(str, arguments)], check=True, stdout=sys.stderr)


def section_of(run: Run, folder: Path, model: str, threads: Sequence[object]) -> dict[str, Any]:
    """The ablation's section of one bundle."""
    bundle, report = folder / run.name, folder / f"report-{run.name}"
    if not bundle.exists():
        widths = ("--bits", run.bits, "--activation-bits", run.activation_bits)
        command("export", "--model", model, *widths, "-o", bundle)
    if not report.exists():
        rows = [word for name in run.rows for word in ("--rows", name)]
        command(
            "ablate", bundle, "-o", report, "--reference", folder / RUNS[0].name, "--points", run.points, *rows,
            "--budget", BUDGET, "--memory", "fast", "--judge-prompts", PROMPTS, "--judge-seeds", SEEDS, *threads,
        )  # fmt: skip
    found: dict[str, Any] = json.loads((report / "report.json").read_text())["bundles"][run.name]
    return found


def span(d: Mapping[str, float] | None, form: str) -> str:
    return f"{d['estimate']:{form}} [{d['low']:{form}}, {d['high']:{form}}]" if d else "no gap"


def judged(section: Mapping[str, Any], precision: str = QUANTIZED) -> dict[str, dict[str, Any]]:
    """The second judge's rows of one network, by name."""
    return {row["name"]: row for row in section["judged"] if row["precision"] == precision}


def gap_table(sections: Mapping[str, Any]) -> str:
    """What quantization alone does."""
    lines = ["| | Fréchet | top-1 | top-5 | JAQ |", "|---|---|---|---|---|"]
    for name, section in sections.items():
        row = judged(section).get(PLAIN)
        if row:
            forms = {"frechet": "+.2f", "top1": "+.1%", "top5": "+.1%", "jaq": "+.3f"}
            cells = [span(row["differences"][measure], form) for measure, form in forms.items()]
            lines.append(f"| {name.upper()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def closed_table(section: Mapping[str, Any]) -> str:
    """Every search and loss by the second judge, and how much of the gap it closes."""
    passes = {f"{r['group']}: {r['name']}": r["passes"] for r in section["rows"]}
    lines = ["| | passes | JAQ | Fréchet | top-1 | closes of JAQ | of Fréchet | of top-1 |", "|---" * 8 + "|"]
    for name, row in judged(section).items():
        if name == PLAIN:
            continue
        d, share = row["differences"], row["closed"]
        cells = [span(d["jaq"], "+.2f"), span(d["frechet"], "+.2f"), span(d["top1"], "+.1%")]
        cells += [span(share[m], ".0%") for m in ("jaq", "frechet", "top1")]
        lines.append(f"| {name.replace(f'{EQUAL}: ', '')} | {passes[name]:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ranks_table(sections: Mapping[str, Any]) -> str:
    """Over a scheme's rows: does what a gain is measured by say which coefficients the second judge will dislike?"""
    from scipy.stats import spearmanr

    lines = ["| | JAQ and Fréchet distance | nearness to full precision and Fréchet distance |", "|---" * 3 + "|"]
    for name, section in sections.items():
        of = judged(section)
        rows = [(r, of[f"{r['group']}: {r['name']}"]) for r in section["rows"] if f"{r['group']}: {r['name']}" in of]
        frechet = [row["differences"]["frechet"]["estimate"] for _, row in rows]
        jaq = [row["differences"]["jaq"]["estimate"] for _, row in rows]
        near = [row["gains"]["reference"]["estimate"] for row, _ in rows]
        pair = (spearmanr(values, frechet).statistic for values in (jaq, near))
        lines.append(f"| {name.upper()}, {len(rows)} rows | {' | '.join(f'{rho:+.2f}' for rho in pair)} |")
    return "\n".join(lines)


def both_table(sections: Mapping[str, Any]) -> str:
    """The same coefficients on both networks."""
    lines = ["| learned at | by | JAQ, quantized | JAQ, full | Fréchet, quantized | Fréchet, full |", "|---" * 6 + "|"]
    for name, section in sections.items():
        here, there = judged(section), judged(section, FULL)
        for row in sorted(set(here) & set(there) - {PLAIN}):
            cells = [span(side[row]["differences"][m], "+.2f") for m in ("jaq", "frechet") for side in (here, there)]
            lines.append(f"| {name.upper()} | {row.replace(f'{EQUAL}: ', '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def full_table(section: Mapping[str, Any]) -> str:
    """Coefficients that were learned on the full-precision network itself."""
    lines = ["| loss | JAQ | Fréchet | top-1 |", "|---|---|---|---|"]
    for name, row in judged(section, FULL).items():
        d = row["differences"]
        if name != PLAIN:
            cells = (span(d["jaq"], "+.2f"), span(d["frechet"], "+.2f"), span(d["top1"], "+.1%"))
            lines.append(f"| {name.replace('loss: ', '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def passes_table(section: Mapping[str, Any]) -> str:
    """When each search's best is as good as the grid's on the held-out prompts."""
    rows = {r["name"]: r for r in section["rows"] if r["group"] == EQUAL}
    goal, taken = rows["grid"]["gains"]["jaq"]["estimate"], rows["grid"]["passes"]
    lines = [
        "| search | held-out JAQ | passes | as good as the grid after | share of its passes |",
        "|---" * 5 + "|",
    ]
    for name, row in rows.items():
        start = row["curve"][0][2]
        reached = [p for p, _, held in row["curve"] if held is not None and held - start >= goal]
        when = f"{reached[0]:,} | 1/{taken / reached[0]:.0f}" if reached else "never |" if name != "grid" else " |"
        lines.append(f"| `{name}` | {span(row['gains']['jaq'], '+.3f')} | {row['passes']:,} | {when} |")
    return "\n".join(lines)


def parts_table(section: Mapping[str, Any]) -> str:
    """Losses, columns and prompt counts: `gradient` with the same number of iterations."""
    lines = ["| | | JAQ | TC | IQ | passes |", "|---" * 6 + "|"]
    for row in section["rows"]:
        if row["group"] != EQUAL:
            g = row["gains"]
            cells = (span(g["jaq"], "+.3f"), span(g["text_image"], "+.4f"), span(g["quality"], "+.4f"))
            lines.append(f"| {row['group']} | {row['name']} | {' | '.join(cells)} | {row['passes']:,} |")
    return "\n".join(lines)


def tables(sections: Mapping[str, Any]) -> dict[str, str]:
    quantized = {name: s for name, s in sections.items() if name != RUNS[0].name}
    return {
        "gap": gap_table(quantized),
        **{f"closed {name}": closed_table(section) for name, section in quantized.items()},
        "ranks": ranks_table(quantized),
        "both": both_table(quantized),
        "full": full_table(sections[RUNS[0].name]),
        "passes": passes_table(sections["w4a16"]),
        "parts": parts_table(sections["w4a16"]),
    }


def pictures(sections: Mapping[str, Any]) -> dict[str, bytes]:
    """PNG files by name."""
    w4 = sections["w4a16"]
    drawn = {
        "passes.png": plots.curves([r for r in w4["rows"] if r["group"] == EQUAL]),
        "surface.png": plots.surface(w4["surface"]["axis"], w4["surface"]["mean"]),
    }
    for name, section in sections.items():
        if name != RUNS[0].name:
            drawn[f"{name}.png"] = plots.against(list(judged(section).values()))
    return drawn


def measure(folder: Path, model: str, threads: Sequence[object]) -> Found:
    sections = {run.name: section_of(run, folder, model, threads) for run in RUNS}
    return Found(sections, tables(sections), pictures(sections))
