"""calibrate: fit on one prompt set, let held-out prompts decide, write what won into the bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qsched_edge.bundle import write as bundles
from qsched_edge.bundle.card import versions
from qsched_edge.bundle.learned import LearnedSchedule, coefficients_json, shares_of_noise
from qsched_edge.bundle.opened import OpenedBundle, open_bundle
from qsched_edge.calibrate.budget import Budget
from qsched_edge.calibrate.inputs import scorer_hash, with_loss
from qsched_edge.calibrate.record import BOUNDS, Result, candidate_json, sentence
from qsched_edge.calibrate.reference import beside, full_precision, uncalibrated_at
from qsched_edge.calibrate.registries import STARTED
from qsched_edge.calibrate.safeguards import collapse, saturation, shared, too_few, warnings_of
from qsched_edge.calibrate.search import Problem, Proposal, propose
from qsched_edge.calibrate.session import PAIRED, PLACE_OPTIONS, Session, open_session
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.calibrate.verdicts import Verdict, choose, judge, ships
from qsched_edge.jaq.distribution import AnyLoss
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.loss import Scores
from qsched_edge.jaq.panel import names_of
from qsched_edge.jaq.terms import picture_terms
from qsched_edge.work import progress
from qsched_edge.work.lock import locked
from qsched_edge.work.staging import digest


def calibrate(
    folder: Path,
    settings: CalibrationSettings,
    prompts: Path | None,
    heldout: Path | None,
    model: str | None,
    quiet: bool,
) -> Result:
    """Learn coefficients for the bundle at `folder` and write them into it; one process at a time does."""
    folder = folder.resolve()
    bundle = open_bundle(folder)  # raises before anything is written beside a folder that is no bundle
    with locked(folder):
        return calibrate_alone(bundle, settings, prompts, heldout, model, quiet)


def calibrate_alone(
    bundle: OpenedBundle,
    settings: CalibrationSettings,
    prompts: Path | None,
    heldout: Path | None,
    model: str | None,
    quiet: bool,
) -> Result:
    """The same, by the one process that holds the bundle's lock."""
    folder = bundle.folder
    journal = folder.with_name(f".{folder.name}.calibration")
    settings = with_reference(bundle, with_loss(settings, bundle.model(model).recipe), model, quiet)
    with progress.saying("loading the bundle and its judges, drawing the fitting prompts at c = 1", quiet):
        session = open_session(bundle, settings, prompts, heldout, model, journal)
    try:
        loss = session.own_loss
        proposals = search_all(session, loss, quiet)
        with progress.saying("judging what was found on held-out prompts", quiet):
            verdicts, before = judge_all(session, proposals, loss)
    finally:
        session.engine.close()
    chosen = choose(verdicts, settings.accept)
    record = make_record(session, verdicts, chosen, loss, before)
    bundles.write_schedule(
        folder, chosen.proposal.schedule if ships(chosen, settings.accept) else session.stock, record
    )
    session.journal.remove()
    return Result(record)


def with_reference(
    bundle: OpenedBundle, settings: CalibrationSettings, model: str | None, quiet: bool
) -> CalibrationSettings:
    """With the 32-bit bundle, found beside this one or exported, if anything is to be compared with it."""
    spec = bundle.model(model)
    wanted = settings.needs_reference or (settings.accept == "gate" and PAIRED in names_of(spec.recipe, "gate"))
    if settings.reference or not wanted or bundle.provenance.bits == 32:
        return settings
    return replace(settings, reference=full_precision(spec, bundle, beside(bundle, spec), quiet))


def search_all(session: Session, loss: AnyLoss, quiet: bool) -> list[Proposal]:
    """Every search in turn; closed forms come first where the others start from them, and their passes count there."""
    proposals: list[Proposal] = []
    begin = {"closed": 0, "previous": -1}.get(session.settings.begin)
    most = Budget.parse(session.settings.budget).passes
    total = int(most) if math.isfinite(most) else None
    for name in session.searches:
        with progress.bar(name, total, "passes", quiet) as advance:
            problem = session.problem(loss, advance)
            if name in STARTED and begin is not None and proposals:
                problem = started(problem, proposals[begin])
            proposals.append(propose(name, problem))
    return proposals


def started(problem: Problem, first: Proposal) -> Problem:
    """The problem, to begin where another search ended and with all that it took paid: both have scored c = 1."""
    problem.start, problem.paid = first.schedule, first
    return problem


def judge_all(session: Session, proposals: Sequence[Proposal], loss: AnyLoss) -> tuple[list[Verdict], Scores]:
    """One proposal is decided by all held-out prompts; several share them: half chooses, half decides."""
    alone = len(proposals) == 1
    sets = (
        (None, session.pictures("heldout")) if alone else (session.pictures("choosing"), session.pictures("deciding"))
    )
    return judge(session.stock, proposals, sets, loss, session.gate, session.settings.seed)


def make_record(
    session: Session, verdicts: Sequence[Verdict], chosen: Verdict, loss: AnyLoss, before: Scores
) -> dict[str, Any]:
    """Everything needed to see where the coefficients come from and to compute them again."""
    settings, (fit_set, heldout_set) = session.settings, session.prompts
    ok = ships(chosen, settings.accept)
    schedule = chosen.proposal.schedule if ok else session.stock
    return {
        "shipped": chosen.proposal.search if ok else "identity",
        "chosen": chosen.proposal.search,
        "timesteps": schedule.table.timesteps.tolist(),
        "c_z": c_z_of(session, schedule),
        **coefficients_json(schedule.coefficients),
        "gate": {"judges": sorted(session.gate.judges), "left_out": list(session.gate.left_out)},
        "sentence": sentence(chosen, settings.accept),
        "settings": {n: v for n, v in settings.json().items() if n not in PLACE_OPTIONS},
        "loss": {"name": settings.loss, "k": settings.k, **loss.json()},
        "metrics": {n: getattr(session.setup.terms, n) for n in ("scorer", "text_image", "quality")},
        "bounds": BOUNDS,
        "candidates": [candidate_json(v, c_z_of(session, v.proposal.schedule)) for v in verdicts],
        "warnings": warnings(session, verdicts, before),
        "prompts": {"file": fit_set.path.name, "sha256": fit_set.sha256, "count": settings.fit_prompts},
        "heldout": {"file": heldout_set.path.name, "sha256": heldout_set.sha256, "count": settings.heldout_prompts},
        "scorer_sha256": scorer_hash(session.setup.terms),
        "backbone_sha256": bundles.backbone_hash(session.bundle.manifest),
        "reference_sha256": digest(uncalibrated_at(settings.reference)) if settings.reference else None,
        "versions": versions(),
    }


def c_z_of(session: Session, schedule: LearnedSchedule) -> list[float]:
    return shares_of_noise(schedule, session.retimed(schedule.table.timesteps)).tolist()


def warnings(session: Session, verdicts: Sequence[Verdict], before: Scores) -> list[str]:
    judge = Judge(session.setup.terms, session.setup.place.device)
    found = shared(session.sets["fit"].prompts, session.sets["heldout"].prompts)
    found += too_few(before.count)
    for name in (n for n in picture_terms() if n in before.values):
        found += saturation(name, before[name], judge.ends(name))
    found += [f"gate: {line}" for line in session.gate.left_out]
    for v in verdicts:
        found += warnings_of(v.proposal) + collapse(v.proposal.search, v.scores, before)
    return found
