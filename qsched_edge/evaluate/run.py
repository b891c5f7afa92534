"""evaluate: measure the four cells on held-out prompts and several seeds, write report.json and report.html."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from qsched_runtime import Coefficients, Sampler

from qsched_edge.bundle import write as bundles
from qsched_edge.bundle.card import versions
from qsched_edge.bundle.opened import OpenedBundle, open_bundle
from qsched_edge.calibrate.device import open_sampler
from qsched_edge.calibrate.inputs import (
    check_reference,
    judge_identity,
    judge_of,
    recipe_path,
    terms_of,
    uncalibrated_at,
)
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.errors import MetricError
from qsched_edge.evaluate.cells import Cell, measure
from qsched_edge.evaluate.contrasts import CELLS, compared
from qsched_edge.evaluate.settings import EvaluationSettings
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings
from qsched_edge.jaq.concepts import Classifier
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.terms import TERMS, picture_terms
from qsched_edge.prompts import read_prompts
from qsched_edge.work import progress
from qsched_edge.work.staging import Staging, refuse_existing, write_json, write_text

CELL = "cell.npz"
SHOWN = 12
TIMED = 5


def evaluate(
    folder: Path,
    output: Path,
    settings: EvaluationSettings,
    prompts: Path | None,
    model: str | None,
    force: bool,
    quiet: bool,
    reference: Path | None = None,
) -> dict[str, Any]:
    """Returns the report that was written to `output`/report.json."""
    refuse_existing(output, force)
    folder = folder.resolve()
    bundle = open_bundle(folder)
    steps, spec = bundle.steps(settings.steps), bundle.model(model)
    prompt_set = read_prompts(prompts or recipe_path(spec.recipe, "heldout", "--prompts"))
    chosen = prompt_set.first(settings.prompts)
    judges = judge_of(spec.recipe), classifier_of(spec)
    full_folder = full_precision(spec, bundle, reference or folder.with_name(f"{spec.recipe.name}-w32"), quiet)
    samplers = {
        name: open_sampler(path, settings.place)
        for name, path in (("full precision", full_folder), ("quantized", folder))
    }
    coefficients = {"c = 1": Coefficients.identity(steps), "calibrated": bundle.manifest.coefficients[steps]}
    arguments = {
        "settings": asdict(settings), "prompts": prompt_set.sha256, "manifest": bundle.identity,
        "reference": uncalibrated_at(full_folder), "judges": judges_identity(spec), "versions": versions(),
    }  # fmt: skip
    with Staging(output, arguments, force) as staging:
        with progress.bar("evaluate", 4 * settings.prompts * settings.seeds, "images", quiet) as advance:
            draw = partial(write_cell, judges=judges, prompts=chosen, seeds=settings.seeds, advance=advance)
            cells = cells_of(samplers, coefficients, draw, staging)
        report = {
            "prompts": {"file": prompt_set.path.name, "sha256": prompt_set.sha256, "count": len(chosen)},
            "seeds": settings.seeds,
            **described(bundle, steps),
            **compared(cells, judges[1].frechet),
            "sizes": sizes(spec, bundle),
            "seconds_per_image": seconds_per_image(samplers, folder, settings, steps),
            "versions": versions(),
        }
        from qsched_edge.evaluate.page import page

        write_text(staging.folder / "report.html", page(report, chosen, {n: c.pictures for n, c in cells.items()}))
        write_json(staging.folder / "report.json", report)
        staging.drop([f"cell-{i}" for i in range(len(CELLS))])
    return report


def described(bundle: OpenedBundle, steps: int) -> dict[str, Any]:
    """The bundle, the coefficients it ships for that many steps and how they were found."""
    return {
        "bundle": bundle.manifest.name,
        "steps": steps,
        "coefficients": bundles.coefficients_json(bundle.manifest.coefficients[steps]),
        "calibration": bundle.calibrations.get(steps, {}),
    }


def cells_of(
    samplers: Mapping[str, Sampler],
    coefficients: Mapping[str, Coefficients],
    draw: Callable[[Sampler, Coefficients, Path], None],
    staging: Staging,
) -> dict[str, Cell]:
    """The four cells, each a finished part of the staging folder."""
    found = {}
    for i, name in enumerate(CELLS):
        precision, kind = name.split(", ")
        write = partial(draw, samplers[precision], coefficients[kind])
        found[name] = Cell.load(staging.part(f"cell-{i}", write) / CELL)
    return found


def write_cell(
    sampler: Sampler,
    coefficients: Coefficients,
    folder: Path,
    *,
    judges: tuple[Judge, Classifier],
    prompts: Sequence[str],
    seeds: int,
    advance: Callable[[int], None],
) -> None:
    measure(sampler, coefficients, judges, prompts, seeds, SHOWN, advance).save(folder / CELL)


def classifier_of(spec: ModelSpec) -> Classifier:
    if not spec.recipe.evaluator:
        raise MetricError(f"recipe {spec.recipe.name} names no evaluator: add evaluator = FOLDER of a classifier")
    return Classifier(spec.recipe.path(spec.recipe.evaluator))


def judges_identity(spec: ModelSpec) -> dict[str, Any]:
    """All that a cell's measurements depend on beside its pictures."""
    recipe = spec.recipe
    evaluator = bundles.list_files(recipe.path(recipe.evaluator)) if recipe.evaluator else []
    return {**judge_identity(terms_of(recipe, CalibrationSettings())), "evaluator": evaluator}


def full_precision(spec: ModelSpec, quantized: OpenedBundle, folder: Path, quiet: bool) -> Path:
    """A 32-bit bundle of the very weights that `quantized` was made of; exported to `folder` unless it is there."""
    if not folder.exists():
        quantized.check_sources(spec)  # before hours are spent on other weights
        plain = replace(spec, recipe=replace(spec.recipe, layers={}))
        export(plain, ExportSettings(bits=32, choices=quantized.provenance.choices), folder, quiet=quiet)
    check_reference(open_bundle(folder), quantized)
    return folder


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
    for i in range(TIMED + 1):
        for name, sampler in variants.items():
            start = time.perf_counter()
            sampler("", seed=i, num_inference_steps=steps)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t[1:]) for name, t in times.items()}  # the first round warms up


def text_table(report: dict[str, Any]) -> str:
    """The four cells as plain text, what calibration gains below."""
    shorts = " ".join(f"{TERMS[n].short:>7}" for n in picture_terms())
    head = f"{'cell':28} {'top-1':>7} {'top-5':>7} {'Fréchet':>9} {shorts}"
    rows = [head, "-" * len(head)]
    for name, c in report["cells"].items():
        accuracy = f"{c['top1']:7.1%} {c['top5']:7.1%}"
        terms = " ".join(f"{TERMS[n].form.format(c[n]):>7}" for n in picture_terms())
        rows.append(f"{name:28} {accuracy} {c['frechet']:9.2f} {terms}")
    for name, gain in report["calibration_gains"].items():
        d, f = gain["top5"], gain["frechet"]
        rows.append(f"calibration, {name}: top-5 {d['estimate']:+.1%} [{d['low']:+.1%}, {d['high']:+.1%}], "
                    f"Fréchet {f['estimate']:+.2f} [{f['low']:+.2f}, {f['high']:+.2f}]")  # fmt: skip
    rows.append("(calibrated - c = 1 on each network and the difference of the two, 95 % intervals)")
    backbone = next(iter(set(report["sizes"]["components"]) & {"unet", "transformer"}))
    ratio, whole = report["sizes"]["components"][backbone]["ratio"], report["sizes"]["bundle"]
    rows.append(
        f"bytes: {backbone} {ratio:.2f} times smaller than FP16, bundle {whole['bytes']:,} = {whole['ratio']:.2f} times"
    )
    return "\n".join(rows)
