"""evaluate: measure the four cells on held-out prompts and several seeds, write report.json and report.html."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Coefficients, Sampler
from qsched_runtime import manifest as manifests

from qsched_edge import bundle as bundles
from qsched_edge import progress
from qsched_edge.calibrate.run import (
    check_reference,
    judge_identity,
    judge_of,
    recipe_path,
    terms_of,
    uncalibrated_at,
)
from qsched_edge.calibrate.settings import Settings as Calibration
from qsched_edge.card import versions
from qsched_edge.errors import MetricError, RequestError
from qsched_edge.evaluate.cells import METRICS, Cell, measure
from qsched_edge.evaluate.classifier import Classifier
from qsched_edge.evaluate.frechet import Frechet
from qsched_edge.export import ExportSettings, export
from qsched_edge.intervals import Interval, interval, paired_difference
from qsched_edge.jaq.judge import Judge
from qsched_edge.pipelines.parts import choices_of
from qsched_edge.prompts import read_prompts
from qsched_edge.recipes import ModelSpec, resolve
from qsched_edge.staging import Staging, refuse_existing, write_json, write_text

CELLS = ("full precision, c = 1", "full precision, calibrated", "quantized, c = 1", "quantized, calibrated")
BASE = CELLS[2]  # differences are taken against the quantized model without coefficients
CELL = "cell.npz"
SHOWN = 12
TIMED = 5
FRECHET_RESAMPLES = 200


@dataclass(frozen=True)
class Settings:
    """`prompts` held-out prompts, each with `seeds` noises."""

    prompts: int = 64
    seeds: int = 3
    providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def __post_init__(self) -> None:
        if self.prompts < 2 or self.seeds < 1:
            raise RequestError(f"{self.prompts} prompts x {self.seeds} seeds give no interval: use 2 prompts or more")


def evaluate(
    folder: Path,
    output: Path,
    settings: Settings,
    prompts: Path | None,
    model: str | None,
    force: bool,
    quiet: bool,
    reference: Path | None = None,
) -> dict[str, Any]:
    """Returns the report that was written to `output`/report.json."""
    refuse_existing(output, force)
    folder = folder.resolve()
    manifest = manifests.read(folder)
    spec = resolve(model or manifest.raw["provenance"]["recipe"])
    prompt_set = read_prompts(prompts or recipe_path(spec.recipe, "heldout"))
    chosen = prompt_set.first(settings.prompts)
    judges = judge_of(spec.recipe), classifier_of(spec)
    full_folder = full_precision(spec, manifest, reference or folder.with_name(f"{spec.recipe.name}-w32"), quiet)
    samplers = {
        name: Sampler.from_pretrained(path, providers=settings.providers)
        for name, path in (("full precision", full_folder), ("quantized", folder))
    }
    steps = manifest.default_steps
    coefficients = {"c = 1": Coefficients.identity(steps), "calibrated": manifest.coefficients[steps]}
    arguments = {
        "settings": asdict(settings), "prompts": prompt_set.sha256, "manifest": manifest.raw,
        "reference": uncalibrated_at(full_folder), "judges": judges_identity(spec), "versions": versions(),
    }  # fmt: skip
    with Staging(output, arguments, force) as staging:
        with progress.bar("evaluate", 4 * settings.prompts * settings.seeds, "images", quiet) as advance:
            draw = partial(write_cell, judges=judges, prompts=chosen, seeds=settings.seeds, advance=advance)
            cells = cells_of(samplers, coefficients, draw, staging)
        report = {
            "prompts": {"file": prompt_set.path.name, "sha256": prompt_set.sha256, "count": len(chosen)},
            "seeds": settings.seeds,
            **described(manifest),
            **compared(cells, judges[1].frechet),
            "sizes": sizes(spec, manifest),
            "seconds_per_image": seconds_per_image(samplers, folder, settings),
            "versions": versions(),
        }
        from qsched_edge.evaluate.page import page

        write_text(staging.folder / "report.html", page(report, chosen, {n: c.pictures for n, c in cells.items()}))
        write_json(staging.folder / "report.json", report)
        staging.drop([f"cell-{i}" for i in range(len(CELLS))])
    return report


def described(manifest: manifests.Manifest) -> dict[str, Any]:
    """The bundle, the coefficients it ships and how they were found."""
    steps = manifest.default_steps
    coefficients = manifest.coefficients[steps]
    return {
        "bundle": manifest.name,
        "coefficients": {k: getattr(coefficients, k).tolist() for k in ("c_x", "c_eps")},
        "calibration": manifest.raw["calibration"].get(str(steps), {}),
    }


def compared(cells: Mapping[str, Cell], frechet: Frechet) -> dict[str, Any]:
    """The means of each cell, and what sets the others apart from the quantized model at c = 1."""
    others = [name for name in CELLS if name != BASE]
    return {
        "cells": {name: summary(cell, frechet) for name, cell in cells.items()},
        "differences": {name: differences(cells[name], cells[BASE], frechet) for name in others},
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
    return {**judge_identity(terms_of(recipe, Calibration())), "evaluator": evaluator}


def full_precision(spec: ModelSpec, quantized: manifests.Manifest, folder: Path, quiet: bool) -> Path:
    """A 32-bit bundle of the very weights that `quantized` was made of; exported to `folder` unless it is there."""
    if not folder.exists():
        export(spec, ExportSettings(bits=32, choices=choices_of(quantized)), folder, quiet=quiet)
    check_reference(folder, quantized)
    return folder


def summary(cell: Cell, frechet: Frechet) -> dict[str, float]:
    """Means of the metrics over prompts and seeds, and the Fréchet distance to the real pictures."""
    means = {m: float(cell.metrics[m].mean()) for m in METRICS}
    return {**means, "frechet": frechet(flat(cell.features))}


def flat(features: np.ndarray) -> np.ndarray:
    return features.reshape(-1, features.shape[-1])


def differences(cell: Cell, base: Cell, frechet: Frechet) -> dict[str, dict[str, float]]:
    """cell - base for every metric, with intervals over resampled prompts (all seeds of a prompt stay together)."""
    prompts = len(cell.features)
    found: dict[str, Interval] = {}
    for m in METRICS:
        found[m] = paired_difference(cell.metrics[m], base.metrics[m], seed=0)
    found["frechet"] = interval(
        lambda rows: frechet(flat(cell.features[rows])) - frechet(flat(base.features[rows])),
        prompts,
        0,
        FRECHET_RESAMPLES,
    )
    return {name: asdict(value) for name, value in found.items()}


def sizes(spec: ModelSpec, manifest: manifests.Manifest) -> dict[str, Any]:
    """Bytes of each component and of the bundle beside the same weights in FP16."""
    from qsched_edge.evaluate.sizes import fp16_bytes

    half = fp16_bytes(spec, choices_of(manifest))
    stored = {name: bundles.component_bytes(manifest, name) for name in manifest.components}
    return {
        "components": {n: {"bytes": b, "fp16_bytes": half[n], "ratio": half[n] / b} for n, b in stored.items()},
        "bundle": {
            "bytes": bundles.bundle_bytes(manifest),
            "fp16_bytes": sum(half.values()),
            "ratio": sum(half.values()) / bundles.bundle_bytes(manifest),
        },
    }


def seconds_per_image(samplers: dict[str, Sampler], folder: Path, settings: Settings) -> dict[str, float]:
    """Median seconds for one picture, batch 1, the variants taking turns so that they share the machine's moods."""
    fast = Sampler.from_pretrained(folder, providers=settings.providers, memory="fast")
    variants = {**samplers, "quantized, memory=fast": fast}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for i in range(TIMED + 1):
        for name, sampler in variants.items():
            start = time.perf_counter()
            sampler("", seed=i)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t[1:]) for name, t in times.items()}  # the first round warms up


def text_table(report: dict[str, Any]) -> str:
    """The four cells as plain text, differences to the quantized model with c = 1 below."""
    head = f"{'cell':28} {'top-1':>7} {'top-5':>7} {'Fréchet':>9} {'TC':>7} {'IQ':>7}"
    rows = [head, "-" * len(head)]
    for name, c in report["cells"].items():
        accuracy = f"{c['top1']:7.1%} {c['top5']:7.1%}"
        rows.append(f"{name:28} {accuracy} {c['frechet']:9.2f} {c['text_image']:7.4f} {c['quality']:7.4f}")
    calibrated = report["differences"][CELLS[3]]
    d, f = calibrated["top5"], calibrated["frechet"]
    rows.append(f"calibration of the quantized model: top-5 {d['estimate']:+.1%} [{d['low']:+.1%}, {d['high']:+.1%}], "
                f"Fréchet {f['estimate']:+.2f} [{f['low']:+.2f}, {f['high']:+.2f}] (95 % intervals)")  # fmt: skip
    backbone = next(iter(set(report["sizes"]["components"]) & {"unet", "transformer"}))
    ratio, whole = report["sizes"]["components"][backbone]["ratio"], report["sizes"]["bundle"]
    rows.append(
        f"bytes: {backbone} {ratio:.2f} times smaller than FP16, bundle {whole['bytes']:,} = {whole['ratio']:.2f} times"
    )
    return "\n".join(rows)
