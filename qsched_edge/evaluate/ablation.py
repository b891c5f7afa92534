"""ablate: what each part of the calibration is worth, for one bundle or several, in one report.

Every row is a search from c = 1 on the same fitting prompts; its gains are measured in JAQ, TC and IQ on the same
held-out prompts and noise. All scores go through one journal for each bundle, so that an interrupted ablation goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Coefficients, Sampler
from qsched_runtime import manifest as manifests

from qsched_edge import progress
from qsched_edge.bundle import coefficients_json
from qsched_edge.calibrate.run import Workshop, open_workshop
from qsched_edge.calibrate.search import SEARCHES, Point, Proposal, propose
from qsched_edge.calibrate.settings import Settings
from qsched_edge.calibrate.space import HIGH, LOW, line
from qsched_edge.card import versions
from qsched_edge.evaluate.run import full_precision
from qsched_edge.intervals import paired_difference
from qsched_edge.jaq.loss import LOSSES, Loss
from qsched_edge.recipes import resolve
from qsched_edge.staging import Staging, refuse_existing, write_json, write_text

EQUAL_PASSES = "searches at equal passes"
SHOWN = 6  # pictures of each row
CURVE = 6  # points of a curve whose held-out score is measured: the last ones of each doubling of passes
PROMPTS = (2, 4, 8, 16)  # fitting prompts of the rows that ask how many are needed


@dataclass(frozen=True)
class Row:
    """One search of the ablation: `group` is the question it answers, `moves` which of (c_x, c_eps) a gradient may
    change, `count` how many fitting prompts it sees (None: all)."""

    group: str
    name: str
    search: str
    loss: str = "jaq"
    moves: tuple[bool, bool] = (True, True)
    count: int | None = None


def rows_of(fit_prompts: int) -> list[Row]:
    """The grid first: what it takes is what every other search may take."""
    counts = [*(n for n in PROMPTS if n < fit_prompts), fit_prompts]
    masks = (("c_x only", (True, False)), ("c_eps only", (False, True)), ("c_x and c_eps", (True, True)))
    return [
        *(Row(EQUAL_PASSES, name, name) for name in SEARCHES),
        *(Row("loss", loss, "gradient", loss) for loss in LOSSES),
        *(Row("columns", name, "gradient", moves=moves) for name, moves in masks),
        *(Row("fitting prompts", str(n), "gradient", count=n) for n in counts),
    ]


def ablate(
    folders: Sequence[Path],
    output: Path,
    settings: Settings,
    model: str | None,
    force: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Returns the report written to `output`/report.json; `settings.points` sets the grid and so the budget."""
    refuse_existing(output, force)
    raw = [manifests.read(f).raw for f in folders]
    arguments = {"settings": asdict(settings), "model": model, "manifests": raw}
    with Staging(output, arguments, force) as staging:
        sections, pictures = {}, {}
        for i, folder in enumerate(folders):
            journal = staging.folder / f"journal-{i}"
            sections[folder.name], pictures[folder.name] = ablate_one(folder, settings, model, journal, quiet)
        report = {"bundles": sections, "settings": settings_json(settings), "versions": versions()}
        from qsched_edge.evaluate.ablation_page import page

        write_text(staging.folder / "report.html", page(report, pictures))
        write_json(staging.folder / "report.json", report)
        staging.drop([f"journal-{i}" for i in range(len(folders))])
    return report


def settings_json(settings: Settings) -> dict[str, Any]:
    return {n: str(v) if isinstance(v, Path) else v for n, v in asdict(settings).items()}


def ablate_one(
    folder: Path, settings: Settings, model: str | None, journal: Path, quiet: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The report's section of one bundle, and pictures uint8 [SHOWN, H, W, 3] by row."""
    manifest = manifests.read(folder)
    spec = resolve(model or manifest.raw["provenance"]["recipe"])
    full = full_precision(spec, manifest, settings.reference or folder.with_name(f"{spec.recipe.name}-w32"), quiet)
    shop = open_workshop(folder, replace(settings, reference=full), None, None, model, journal, compare=True)
    try:
        jaq, budget, found = shop.loss("jaq"), settings.budget, []
        for row in rows_of(settings.fit_prompts):
            proposal = run_row(shop, row, budget, quiet)
            budget = budget or str(proposal.passes)  # the grid's
            found.append({"group": row.group, "name": row.name, **measured(shop, jaq, row, proposal)})
        shown = shop.sets["heldout"].prompts[:SHOWN]
        section = {"rows": found, "surface": surface(shop, jaq), "budget": budget, "prompts": shown}
        return section, drawn(shop, full, found)
    finally:
        shop.engine.close()


def run_row(shop: Workshop, row: Row, budget: str, quiet: bool) -> Proposal:
    with progress.bar(f"{row.group}: {row.name}", None, "passes", quiet) as advance:
        bounded = replace(shop, settings=replace(shop.settings, budget=budget))
        problem = bounded.problem(shop.loss(row.loss), advance, row.count)
        problem.tuning = replace(problem.tuning, moves=row.moves)
        return propose(row.search, problem)


def measured(shop: Workshop, jaq: Loss, row: Row, proposal: Proposal) -> dict[str, Any]:
    """The proposal's held-out gains with intervals, and its curve of held-out JAQ against passes."""
    held = shop.pictures("heldout")
    points = thinned(proposal.curve) if row.group == EQUAL_PASSES else [proposal.curve[0], proposal.curve[-1]]
    scores = [s for s, _ in held.scores([p.coefficients for p in points])]
    before, after = scores[0], scores[-1]
    gains = {"jaq": (jaq.of(after), jaq.of(before))}
    gains |= {n: (getattr(after, n), getattr(before, n)) for n in ("text_image", "quality", "reference")}
    return {
        "search": row.search,
        **coefficients_json(proposal.coefficients),
        "passes": proposal.passes,
        "pictures": proposal.pictures,
        "budget_spent": proposal.spent,
        "gains": {n: asdict(paired_difference(*pair, seed=0)) for n, pair in gains.items()},
        "curve": [[p.passes, p.fit, float(jaq.of(s).mean())] for p, s in zip(points, scores, strict=True)],
        "notes": proposal.notes,
    }


def thinned(curve: Sequence[Point]) -> list[Point]:
    """The first point, the last, and up to CURVE between, even in the logarithm of passes."""
    marks = np.geomspace(max(curve[0].passes, 1), max(curve[-1].passes, 1), CURVE)
    chosen = {max(i for i, p in enumerate(curve) if p.passes <= mark + 0.5) for mark in marks}
    return [curve[i] for i in sorted(chosen | {0, len(curve) - 1})]


def surface(shop: Workshop, jaq: Loss) -> dict[str, Any]:
    """Fit JAQ on the paper's grid, as `grid` has computed it: mean[s][m] for c_x from s, c_eps from m."""
    axis, steps = np.linspace(LOW, HIGH, shop.settings.points), shop.steps
    grid = [Coefficients(line(s, 1.0, steps), line(m, 1.0, steps)) for s in axis for m in axis]
    means = [float(jaq.of(s).mean()) for s, _ in shop.pictures("fit").scores(grid)]
    return {"axis": axis.tolist(), "mean": np.reshape(means, (len(axis), -1)).tolist()}


def drawn(shop: Workshop, full: Path, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The first held-out prompts by full precision, by the quantized model at c = 1 and by the rows of the losses."""
    held = shop.sets["heldout"]
    prompts, seeds = held.prompts[:SHOWN], range(held.first_seed, held.first_seed + len(held.prompts[:SHOWN]))
    quantized = Sampler.from_pretrained(shop.setup.bundle, providers=shop.setup.providers, threads=shop.setup.threads)
    exact = Sampler.from_pretrained(full, providers=shop.setup.providers, threads=shop.setup.threads)
    identity = Coefficients.identity(shop.steps)
    wanted = {r["name"]: Coefficients(r["c_x"], r["c_eps"], r.get("bias")) for r in rows if r["group"] == "loss"}

    def draw(sampler: Sampler, coefficients: Coefficients) -> np.ndarray:
        return sampler(prompts, seed=list(seeds), num_inference_steps=shop.steps, coefficients=coefficients).images

    return {
        "full precision": draw(exact, identity),
        "c = 1": draw(quantized, identity),
        **{name: draw(quantized, c) for name, c in wanted.items()},
    }


def text_table(report: dict[str, Any]) -> str:
    """Each bundle's rows as plain text."""
    lines = []
    for bundle, section in report["bundles"].items():
        lines.append(f"{bundle}: held-out JAQ gain over c = 1, 95 % interval, network passes")
        for row in section["rows"]:
            g = row["gains"]["jaq"]
            interval = f"[{g['low']:+.3f}, {g['high']:+.3f}]"
            lines.append(f"  {row['group']:25} {row['name']:14} {g['estimate']:+.3f}  {interval:18} {row['passes']:8,}")
    return "\n".join(lines)
