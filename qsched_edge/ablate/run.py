"""ablate: what each part of the calibration is worth, for one bundle or several, in one report.

Every row is a search from c = 1 on the same fitting prompts; its gains are measured in JAQ, TC and IQ on the same
held-out prompts and noise. The report's judges, as far as they are at hand, see the rows of the searches and
losses. All scores go through one journal for each bundle, so that an interrupted ablation goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Coefficients, Sampler
from qsched_runtime.image import to_uint8

from qsched_edge.ablate import judged as judges
from qsched_edge.ablate.rows import Row, rows_of
from qsched_edge.ablate.settings import EQUAL_PASSES, LOSS, AblationSettings
from qsched_edge.bundle.card import versions
from qsched_edge.bundle.learned import LearnedSchedule, coefficients_json
from qsched_edge.bundle.opened import OpenedBundle, open_bundle
from qsched_edge.calibrate.device import open_sampler
from qsched_edge.calibrate.inputs import prompt_sets, terms_of
from qsched_edge.calibrate.reference import beside, full_precision, uncalibrated_at
from qsched_edge.calibrate.search import Point, Proposal, propose
from qsched_edge.calibrate.searches.space import HIGH, LOW, line
from qsched_edge.calibrate.session import Session, open_session
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.evaluate.cells import Asked, last_latents
from qsched_edge.evaluate.judging import panel_identity, report_panel
from qsched_edge.evaluate.text import span
from qsched_edge.intervals import paired_difference
from qsched_edge.jaq.loss import Loss
from qsched_edge.jaq.panel import Panel
from qsched_edge.jaq.settings import JudgeSource
from qsched_edge.work import progress
from qsched_edge.work.staging import Staging, check_output, write_json, write_text

ON_BOTH = (f"{EQUAL_PASSES}: free", f"{LOSS}: reference")  # full precision draws with these too
SHOWN = 6  # pictures of each row
CURVE = 6  # points of a curve whose held-out score is measured: the last ones of each doubling of passes


def ablate(
    folders: Sequence[Path],
    output: Path,
    settings: AblationSettings,
    model: str | None,
    force: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Returns the report written to `output`/report.json; the calibration's `points` set the grid and so the budget."""
    check_output(output, force)
    folders = [folder.resolve() for folder in folders]
    inputs = [inputs_of(folder, settings.calibration, model, quiet) for folder in folders]
    arguments = {
        "settings": settings.calibration.json(), "judging": asdict(settings.judging), "model": model, "inputs": inputs,
        "versions": versions(),
    }  # fmt: skip
    with Staging(output, arguments, force) as staging:
        sections, pictures = {}, {}
        for i, folder in enumerate(folders):
            subject = Subject(folder, settings, model, staging, i, quiet)
            sections[folder.name], pictures[folder.name] = ablate_one(subject)
        report = {
            "bundles": sections,
            "settings": settings.calibration.json(),
            "judging": asdict(settings.judging),
            "versions": versions(),
        }
        from qsched_edge.ablate.page import page

        write_text(staging.folder / "report.html", page(report, pictures))
        write_json(staging.folder / "report.json", report)
        staging.drop(p.name for p in staging.folder.iterdir() if p.is_dir())
    return report


def inputs_of(folder: Path, settings: CalibrationSettings, model: str | None, quiet: bool) -> dict[str, Any]:
    """All that one bundle's section depends on beside the settings."""
    bundle = open_bundle(folder)
    spec = bundle.model(model)
    return {
        "manifest": bundle.identity,
        "reference": uncalibrated_at(reference_of(bundle, spec, settings, quiet)),
        "prompts": [s.sha256 for s in prompt_sets(spec.recipe, None, None)],
        "judges": panel_identity(panel_for(spec, settings, ())),
    }


def reference_of(bundle: OpenedBundle, spec: ModelSpec, settings: CalibrationSettings, quiet: bool) -> Path:
    """The 32-bit bundle that was named, or the one beside the bundle, made now if it is not there."""
    return full_precision(spec, bundle, settings.reference or beside(bundle, spec), quiet)


@dataclass(frozen=True)
class Subject:
    """One bundle's part of an ablation; `index` names its traces in the staging folder."""

    folder: Path
    settings: AblationSettings
    model: str | None
    staging: Staging
    index: int
    quiet: bool

    @property
    def journal(self) -> Path:
        return self.staging.journal(str(self.index))


def ablate_one(subject: Subject) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The report's section of one bundle, and pictures uint8 [SHOWN, H, W, 3] by row."""
    bundle = open_bundle(subject.folder)
    full = reference_of(bundle, bundle.model(subject.model), subject.settings.calibration, subject.quiet)
    settings = replace(subject.settings.calibration, loss="jaq", reference=full)
    session = open_session(bundle, settings, None, None, subject.model, subject.journal, compare=True)
    try:
        jaq, budget, found = session.loss("jaq"), settings.budget, []
        for row in rows_of(settings.fit_prompts, subject.settings.groups, bundle.provenance.bits == 32):
            proposal = run_row(session, row, budget if row.search != "grid" else "", subject.quiet)
            budget = budget or str(proposal.passes)  # the first row's, the grid's
            found.append({"group": row.group, "name": row.name, **measured(session, jaq, row, proposal)})
        section = {
            "rows": found,
            "budget": budget,
            "prompts": session.sets["heldout"].prompts[:SHOWN],
            "surface": surface(session, jaq) if any(r["search"] == "grid" for r in found) else None,
            **judged_rows(subject, session, full, jaq, found),
        }
        return section, pictures_of(session, full, found)
    finally:
        session.engine.close()


def panel_for(spec: ModelSpec, settings: CalibrationSettings, prompts: Sequence[str]) -> Panel:
    """The report's judges that are at hand."""
    terms = terms_of(spec.recipe, settings, spec.pipeline)
    return report_panel(spec.recipe, prompts, JudgeSource(device=settings.place.device, terms=terms))


def judged_rows(
    subject: Subject, session: Session, full: Path, jaq: Loss, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What the report's judges say of the searches' and losses' coefficients, and how their measures are called."""
    if not subject.settings.judging.prompts:
        return {"judged": [], "measures": {}, "left_out": []}
    held, setup = session.prompts[1].first(subject.settings.judging.prompts), session.setup
    samplers = {
        name: open_sampler(path, setup.place)
        for name, path in ((judges.FULL, full), (judges.QUANTIZED, subject.folder))
    }
    asked = Asked(panel_for(session.spec, session.settings, held), held, subject.settings.judging.seeds, 0)
    panel = judges.Judges(samplers, asked, jaq)
    shown = [row for row in rows if row["group"] in (EQUAL_PASSES, LOSS)]
    candidates = judges.candidates_of(shown, session.stock, ON_BOTH, subject.folder.resolve() == full.resolve())
    found = judges.judged(panel, candidates, subject.staging, f"cell-{subject.index}", subject.quiet)
    readings = {name: asdict(r) for name, r in panel.readings.items() if name in found[0]["means"]}
    return {"judged": found, "measures": readings, "left_out": list(asked.panel.left_out)}


def run_row(session: Session, row: Row, budget: str, quiet: bool) -> Proposal:
    with progress.bar(f"{row.group}: {row.name}", None, "passes", quiet) as advance:
        bounded = replace(session, settings=replace(session.settings, budget=budget))
        problem = bounded.problem(session.loss(row.loss), advance, row.count)
        problem.tuning = replace(problem.tuning, moves=row.moves)
        return propose(row.search, problem)


def measured(session: Session, jaq: Loss, row: Row, proposal: Proposal) -> dict[str, Any]:
    """The proposal's held-out gains with intervals, and its curve of held-out JAQ against passes."""
    held = session.pictures("heldout")
    points = thinned(proposal.curve) if row.group == EQUAL_PASSES else [proposal.curve[0], proposal.curve[-1]]
    scores = [s for s, _ in held.scores([p.schedule for p in points])]
    before, after = scores[0], scores[-1]
    gains = {"jaq": (jaq.of(after), jaq.of(before))}
    gains |= {n: (after[n], before[n]) for n in after.values}
    return {
        "search": row.search,
        **coefficients_json(proposal.schedule.coefficients),
        "schedule": proposal.schedule.json(),
        "passes": proposal.passes,
        "pictures": proposal.pictures,
        "budget_spent": proposal.spent,
        "gains": {n: gain(*pair) for n, pair in gains.items()},
        "curve": [[p.passes, p.fit, mean(jaq.of(s))] for p, s in zip(points, scores, strict=True)],
        "notes": proposal.notes,
    }


def gain(after: np.ndarray, before: np.ndarray) -> dict[str, float] | None:
    """The paired gain with its interval; None where a picture's term is not finite."""
    return asdict(paired_difference(after, before, seed=0)) if np.isfinite(after - before).all() else None


def mean(values: np.ndarray) -> float | None:
    """None where a picture's term is not finite."""
    return float(values.mean()) if np.isfinite(values).all() else None


def thinned(curve: Sequence[Point]) -> list[Point]:
    """The first point, the last, and up to CURVE between, even in the logarithm of passes."""
    marks = np.geomspace(max(curve[0].passes, 1), max(curve[-1].passes, 1), CURVE)
    chosen = {max(i for i, p in enumerate(curve) if p.passes <= mark + 0.5) for mark in marks}
    return [curve[i] for i in sorted(chosen | {0, len(curve) - 1})]


def surface(session: Session, jaq: Loss) -> dict[str, Any]:
    """Fit JAQ on the paper's grid, as `grid` has computed it: mean[s][m] for c_x from s, c_eps from m."""
    axis, steps = np.linspace(LOW, HIGH, session.settings.points), session.steps
    lines = [Coefficients(line(s, 1.0, steps), line(m, 1.0, steps)) for s in axis for m in axis]
    grid = [replace(session.stock, coefficients=c) for c in lines]
    means = [mean(jaq.of(s)) for s, _ in session.pictures("fit").scores(grid)]
    rows = range(0, len(means), len(axis))
    return {"axis": axis.tolist(), "mean": [means[i : i + len(axis)] for i in rows]}


def pictures_of(session: Session, full: Path, rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The first held-out prompts by full precision, by the quantized model at c = 1 and by the rows of the losses."""
    held = session.sets["heldout"]
    prompts, seeds = held.prompts[:SHOWN], range(held.first_seed, held.first_seed + len(held.prompts[:SHOWN]))
    setup = session.setup
    quantized, exact = (open_sampler(path, setup.place) for path in (setup.bundle, full))
    wanted = {r["name"]: LearnedSchedule.read(r["schedule"]) for r in rows if r["group"] == LOSS}

    def draw(sampler: Sampler, schedule: LearnedSchedule) -> np.ndarray:
        return to_uint8(sampler.decode(last_latents(sampler, prompts, list(seeds), schedule)))

    return {
        "full precision": draw(exact, session.stock),
        "c = 1": draw(quantized, session.stock),
        **{name: draw(quantized, c) for name, c in wanted.items()},
    }


def text_table(report: dict[str, Any]) -> str:
    """Each bundle's rows as plain text."""
    lines = []
    for bundle, section in report["bundles"].items():
        lines.append(f"{bundle}: held-out JAQ gain over c = 1, 95 % interval, network passes")
        for row in section["rows"]:
            g = row["gains"]["jaq"]
            found = f"{g['estimate']:+.3f}  [{g['low']:+.3f}, {g['high']:+.3f}]" if g else "not finite"
            lines.append(f"  {row['group']:25} {row['name']:14} {found:26} {row['passes']:8,}")
        lines += judged_lines(section)
    return "\n".join(lines)


def judged_lines(section: Mapping[str, Any]) -> list[str]:
    """The judged rows as plain text: every measure with its difference to c = 1."""
    lines = ["  judges of the report, each measure with its difference to c = 1"] if section["judged"] else []
    for row in section["judged"]:
        lines.append(f"  {row['precision']}, {row['name']}")
        for name, m in section["measures"].items():
            value, gained = m["form"].format(row["means"][name]), span(row["differences"][name], m["signed"])
            lines.append(f"    {m['label']:48} {value:>9}  {gained}")
    return lines
