"""evaluate: measure the four cells on held-out prompts and several seeds, write report.json and report.html."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qsched_runtime import Sampler

from qsched_edge.bundle import write as bundles
from qsched_edge.bundle.card import versions
from qsched_edge.bundle.learned import LearnedSchedule, coefficients_json
from qsched_edge.bundle.opened import OpenedBundle, open_bundle
from qsched_edge.calibrate.device import open_sampler
from qsched_edge.calibrate.inputs import recipe_path, terms_of
from qsched_edge.calibrate.reference import beside, full_precision, uncalibrated_at
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.evaluate.cells import CELL, Asked, Cell, write_cell
from qsched_edge.evaluate.contrasts import CELLS, compared
from qsched_edge.evaluate.judging import panel_identity, report_panel
from qsched_edge.evaluate.sentence import sentence, warnings
from qsched_edge.evaluate.settings import EvaluationSettings
from qsched_edge.evaluate.text import text_table
from qsched_edge.jaq.panel import Panel
from qsched_edge.jaq.settings import JudgeSource
from qsched_edge.precision import Scheme
from qsched_edge.prompts import PromptSet, read_prompts
from qsched_edge.work import progress
from qsched_edge.work.staging import Staging, check_output, write_json, write_text

__all__ = ["evaluate", "full_precision", "text_table"]
SHOWN = 12
TIMED, TIMED_SECONDS = 5, 60  # rounds, and how long they may take where one picture takes long


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, opened and checked: the bundle and the one in full precision, the prompts, the judges."""

    bundle: OpenedBundle
    spec: ModelSpec
    steps: int
    prompt_set: PromptSet
    chosen: tuple[str, ...]
    panel: Panel
    full_folder: Path


def evaluate(
    folder: Path,
    output: Path,
    settings: EvaluationSettings,
    prompts: Path | None = None,
    model: str | None = None,
    force: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Returns the report that was written to `output`/report.json."""
    check_output(output, force)
    asked = asked_of(open_bundle(folder.resolve()), settings, prompts, model, quiet)
    samplers = {
        name: open_sampler(path, settings.place)
        for name, path in (("full precision", asked.full_folder), ("quantized", asked.bundle.folder))
    }
    arguments = {
        "settings": asdict(replace(settings, reference=None)), "prompts": asked.prompt_set.sha256,
        "manifest": asked.bundle.identity, "reference": uncalibrated_at(asked.full_folder),
        "judges": panel_identity(asked.panel), "versions": versions(),
    }  # fmt: skip
    with Staging(output, arguments, force) as staging:
        with progress.bar("evaluate", 4 * settings.prompts * settings.seeds, "images", quiet) as advance:
            draw = partial(write_cell, asked=Asked(asked.panel, asked.chosen, settings.seeds, SHOWN), advance=advance)
            schedules = {"c = 1": asked.bundle.stock(asked.steps), "calibrated": asked.bundle.learned(asked.steps)}
            cells = cells_of(samplers, schedules, draw, staging)
        with progress.saying("timing single pictures", quiet):
            seconds = seconds_per_image(samplers, asked.bundle.folder, settings, asked.steps)
        report = report_of(asked, settings, cells, seconds)
        from qsched_edge.evaluate.page import page

        pictures = {name: cell.pictures for name, cell in cells.items()}
        write_text(staging.folder / "report.html", page(report, asked.chosen, pictures))
        write_json(staging.folder / "report.json", report)
        staging.drop([f"cell-{i}" for i in range(len(CELLS))])
    return report


def asked_of(
    bundle: OpenedBundle, settings: EvaluationSettings, prompts: Path | None, model: str | None, quiet: bool
) -> Evaluation:
    """Everything that can be refused before a picture is drawn, is refused here; says which judges are left out."""
    steps, spec = bundle.steps(settings.steps), bundle.model(model)
    prompt_set = read_prompts(prompts or recipe_path(spec.recipe, "heldout", "--prompts"))
    chosen = prompt_set.first(settings.prompts)
    terms = terms_of(spec.recipe, CalibrationSettings(), spec.pipeline)
    source = JudgeSource(
        device=settings.place.device, terms=terms, references=settings.references, offline=settings.offline
    )
    panel = report_panel(spec.recipe, chosen, source, settings.judges)
    for line in panel.left_out:
        print(line, file=sys.stderr)
    full_folder = full_precision(spec, bundle, settings.reference or beside(bundle, spec), quiet)
    return Evaluation(bundle, spec, steps, prompt_set, chosen, panel, full_folder)


def report_of(
    asked: Evaluation, settings: EvaluationSettings, cells: Mapping[str, Cell], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """What report.json holds."""
    prompt_set, count = asked.prompt_set, len(asked.chosen)
    found: dict[str, Any] = {
        "prompts": {"file": prompt_set.path.name, "sha256": prompt_set.sha256, "count": count},
        "seeds": settings.seeds,
        **described(asked.bundle, asked.steps),
        **compared(cells, asked.panel, count),
        "sizes": sizes(asked.spec, asked.bundle),
        "seconds_per_image": dict(seconds),
        "versions": versions(),
    }
    return {"sentence": sentence(found), "warnings": warnings(found), **found}


def described(bundle: OpenedBundle, steps: int) -> dict[str, Any]:
    """The bundle, its widths, the coefficients it ships for that many steps and how they were found."""
    return {
        "bundle": bundle.manifest.name,
        "scheme": Scheme(bundle.provenance.bits, activation_bits=bundle.provenance.activation_bits).name,
        "steps": steps,
        "stock_timesteps": bundle.stock(steps).table.timesteps.tolist(),
        "timesteps": bundle.learned(steps).table.timesteps.tolist(),
        "coefficients": coefficients_json(bundle.manifest.coefficients[steps]),
        "calibration": bundle.calibrations.get(steps, {}),
    }


def cells_of(
    samplers: Mapping[str, Sampler], schedules: Mapping[str, LearnedSchedule], draw: Callable[..., None],
    staging: Staging,
) -> dict[str, Cell]:  # fmt: skip
    """The four cells, each a finished part of the staging folder; all are judged beside the first."""
    found: dict[str, Cell] = {}
    first: Path | None = None
    for i, name in enumerate(CELLS):
        precision, kind = name.split(", ")
        write = partial(draw, samplers[precision], schedules[kind], beside=first)
        folder = staging.part(f"cell-{i}", write)
        first = first or folder
        found[name] = Cell.load(folder / CELL)
    return found


def sizes(spec: ModelSpec, bundle: OpenedBundle) -> dict[str, Any]:
    """Bytes of each component and of the bundle beside the same weights in FP16."""
    from qsched_edge.evaluate.sizes import fp16_bytes

    manifest = bundle.manifest
    half = fp16_bytes(spec, bundle.provenance.choices)
    stored = {name: bundles.component_bytes(manifest, name) for name in manifest.components}
    return {
        "components": {n: {"bytes": b, "fp16_bytes": half[n], "ratio": half[n] / b} for n, b in stored.items()},
        "bundle": {
            "bytes": bundles.bundle_bytes(manifest),
            "fp16_bytes": sum(half.values()),
            "ratio": sum(half.values()) / bundles.bundle_bytes(manifest),
        },
    }


def seconds_per_image(
    samplers: dict[str, Sampler], folder: Path, settings: EvaluationSettings, steps: int
) -> dict[str, float]:
    """Median seconds for one picture, batch 1, the variants taking turns so that they share the machine's moods."""
    fast = open_sampler(folder, replace(settings.place, memory="fast"))
    variants = {**samplers, "quantized, memory=fast": fast}
    times: dict[str, list[float]] = {name: [] for name in variants}
    begun = time.perf_counter()
    for i in range(TIMED + 1):
        if i > 1 and time.perf_counter() - begun > TIMED_SECONDS:
            break
        for name, sampler in variants.items():
            start = time.perf_counter()
            sampler("", seed=i, num_inference_steps=steps)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t[1:]) for name, t in times.items()}  # the first round warms up
