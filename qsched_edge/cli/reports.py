"""evaluate and ablate: what a calibration is worth, in numbers and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from qsched_edge.ablate.settings import GROUPS, AblationSettings, Judging
from qsched_edge.calibrate.place import Place
from qsched_edge.calibrate.registries import PROVIDERS
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.cli.options import (
    CPU,
    DECIDING,
    PLACE,
    SCORING,
    SEARCHING,
    WHAT,
    Bundle,
    Force,
    Json,
    Memory,
    Model,
    Offline,
    Provider,
    Quiet,
    Reference,
    Report,
    Threads,
    needing,
    one_of,
    option,
    show,
)
from qsched_edge.evaluate.settings import EvaluationSettings

EVALUATION, JUDGING, CALIBRATION = EvaluationSettings(), Judging(), CalibrationSettings()


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What `qsched-edge evaluate` is given."""

    bundle: Bundle
    output: Report
    prompts: Annotated[Path | None, option("Held-out prompts (default: the recipe's).", WHAT)] = None
    model: Model = None
    reference: Reference = None
    count: Annotated[int, option("Number of prompts.", SCORING)] = EVALUATION.prompts
    seeds: Annotated[int, option("Seeds per prompt.", SCORING)] = EVALUATION.seeds
    steps: Annotated[int | None, option("Step count to evaluate (default: the bundle's).", SCORING)] = EVALUATION.steps
    judge: Annotated[
        list[str], option("KIND or KIND:MODEL; repeat for several (default: the recipe's, as far as at hand).", SCORING)
    ] = field(default_factory=list)
    references: Annotated[
        str, option("Folder of reference pictures to compare with (default: the recipe's).", SCORING)
    ] = EVALUATION.references
    device: Annotated[str, one_of(PROVIDERS, "For networks and judges alike.", PLACE)] = EVALUATION.place.device
    provider: Provider = field(default_factory=CPU.copy)
    offline: Offline = EVALUATION.offline
    force: Force = False
    quiet: Quiet = False
    as_json: Json = False


def evaluate(given: EvaluateOptions) -> None:
    """The four cells {full precision, quantized} x {c = 1, calibrated}, with paired intervals and pictures."""
    settings = EvaluationSettings(
        prompts=given.count,
        seeds=given.seeds,
        steps=given.steps,
        judges=tuple(given.judge),
        references=given.references,
        offline=given.offline,
        reference=given.reference,
        place=Place(device=given.device, providers=tuple(given.provider)),
    )
    with needing("evaluate"):
        from qsched_edge.evaluate.run import evaluate as run_evaluation
        from qsched_edge.evaluate.run import text_table
    report = run_evaluation(given.bundle, given.output, settings, given.prompts, given.model, given.force, given.quiet)
    show(report, given.as_json, text_table(report) + f"\n{given.output / 'report.html'}")


@dataclass(frozen=True, kw_only=True)
class AblateOptions:
    """What `qsched-edge ablate` is given."""

    bundles: Annotated[list[Path], typer.Argument(help="Folders of bundles, such as W4A16 and W3A16 of one model.")]
    output: Report
    model: Model = None
    reference: Reference = None
    points: Annotated[int, option("Grid points per axis; the grid's passes are every search's budget.", SEARCHING)] = (
        CALIBRATION.points
    )
    budget: Annotated[str, option("Another budget for all but the grid: passes (20000) or time (5m).", SEARCHING)] = (
        CALIBRATION.budget
    )
    iterations: Annotated[int, option("Gradient iterations.", SEARCHING)] = CALIBRATION.iterations
    rows: Annotated[
        list[str], one_of(GROUPS, "Groups of rows; repeat for several (default: all).", SEARCHING, "--rows")
    ] = field(default_factory=list)
    seed: Annotated[int, option("Seed of all noise and choices, 0 to 99.", SEARCHING)] = CALIBRATION.seed
    k: Annotated[float, option("JAQ = TC + k IQ.", SCORING)] = CALIBRATION.k
    fit_prompts: Annotated[int, option("Prompts to fit on.", SCORING)] = CALIBRATION.fit_prompts
    heldout_prompts: Annotated[int, option("Held-out prompts that measure.", SCORING)] = CALIBRATION.heldout_prompts
    judge_prompts: Annotated[int, option("Held-out prompts for the second judge; 0 asks none.", DECIDING)] = (
        JUDGING.prompts
    )
    judge_seeds: Annotated[int, option("Noise seeds for each of them.", DECIDING)] = JUDGING.seeds
    device: Annotated[str, one_of(PROVIDERS, "For network and scorer alike.", PLACE)] = CALIBRATION.place.device
    memory: Memory = CALIBRATION.place.memory
    threads: Threads = CALIBRATION.place.threads
    force: Force = False
    quiet: Quiet = False
    as_json: Json = False


def ablate(given: AblateOptions) -> None:
    """What each search, loss, column and number of prompts is worth: held-out gains, curves and pictures."""
    calibration = CalibrationSettings(
        points=given.points,
        budget=given.budget,
        iterations=given.iterations,
        fit_prompts=given.fit_prompts,
        heldout_prompts=given.heldout_prompts,
        k=given.k,
        seed=given.seed,
        reference=given.reference,
        place=Place(device=given.device, memory=given.memory, threads=given.threads),
    )
    judging = Judging(prompts=given.judge_prompts, seeds=given.judge_seeds)
    settings = AblationSettings(calibration=calibration, judging=judging, groups=tuple(given.rows or GROUPS))
    with needing("evaluate"):
        from qsched_edge.ablate.run import ablate as run_ablation
        from qsched_edge.ablate.run import text_table
    report = run_ablation(given.bundles, given.output, settings, given.model, given.force, given.quiet)
    show(report, given.as_json, text_table(report) + f"\n{given.output / 'report.html'}")
