"""Everything of a bundle but the graphs: tokenizers, schedules, licences, card, self-test and, last, qsched.json."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsched_runtime import manifest as manifests
from qsched_runtime.manifest import NAME

from qsched_edge.bundle import card, verify, write
from qsched_edge.bundle.sources import recipe_to_json
from qsched_edge.checkpoint.recipes import read_json
from qsched_edge.export.component import UNPACKED
from qsched_edge.export.job import ExportJob
from qsched_edge.export.widths import PRECISION
from qsched_edge.observe import allocation
from qsched_edge.quantize.rewrite import REPORT
from qsched_edge.work.memory import RamLimit
from qsched_edge.work.staging import write_json, write_text


def finish(job: ExportJob, folder: Path) -> None:
    """Write it all into `folder`, which holds the components."""
    layout, recipe = job.layout, job.spec.recipe
    reports = {c.name: read_json(folder / c.name / REPORT) for c in layout.components}
    tokenizers = {name: job.tokenizers[name].write(folder / name) for name in layout.tokenizers}
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler/scheduler_config.json", card.scheduler_json(job.scheduler))
    write_json(folder / "model_index.json", card.model_index(job.spec, layout, job.scheduler["_class_name"]))
    card.copy_licenses(job.spec, folder)
    if recipe.layers and not job.settings.target:
        write_text(folder / PRECISION, allocation.as_toml(recipe.layers))
    raw = write.manifest_json(
        recipe.name,
        layout,
        {name: report["precision"] for name, report in reports.items()},
        {name: tuple(report["outputs"]) for name, report in reports.items()},
        tokenizers,
        job.schedules,
        provenance_of(job).json(),
    )
    raw = {**raw, "recipe": recipe_to_json(recipe)}
    text = card.model_card(recipe, job.settings.precision, job.settings.method, raw)
    write_text(folder / "README.md", text)
    add_selftest(raw, folder, job.settings.ram)


def provenance_of(job: ExportJob) -> card.Provenance:
    recipe, settings = job.spec.recipe, job.settings
    return card.Provenance(
        recipe=recipe.name,
        title=recipe.title,
        license=recipe.license,
        credits=recipe.credits,
        bits=settings.bits,
        activation_bits=settings.activation_bits,
        choices=settings.choices,
        method=settings.method,
        calibration_prompts=job.watched or {},
        target=settings.target,
        group_size=recipe.group_size,
        symmetric=recipe.symmetric,
        sources=job.sources,
        versions=card.versions(),
    )


def add_selftest(raw: Mapping[str, Any], folder: Path, ram: RamLimit) -> None:
    """qsched.json and the self-test; one step of the network belongs to it if the memory holds the network."""
    (folder / "selftest").mkdir(exist_ok=True)
    (folder / verify.GOLDEN).unlink(missing_ok=True)
    files = write.list_files(folder)
    write_json(folder / NAME, {**raw, "files": files})
    needed = UNPACKED * sum(file["bytes"] for file in files)
    network = ram.holds(needed)
    if not network:
        room = f"{needed / 2**30:.1f} GiB"
        print(f"self-test: running the network takes about {room}, so none of its output is recorded", file=sys.stderr)
    write_json(folder / verify.GOLDEN, verify.golden(manifests.read(folder), folder, network))
    write_json(folder / NAME, {**raw, "files": [*files, write.file_entry(folder, folder / verify.GOLDEN)]})
