"""A width for each weight of the backbone, chosen to meet a target size with the least error."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir

from qsched_edge.export.job import ExportJob
from qsched_edge.observe import allocation, sensitivity
from qsched_edge.observe.observation import Observation
from qsched_edge.work import progress
from qsched_edge.work.journal import Journal
from qsched_edge.work.staging import write_text

PRECISION, TARGET = "precision.toml", "target.txt"


def check_target(job: ExportJob, target: allocation.Target) -> None:
    """Raise QuantizeError for a target that no choice of widths reaches, before anything is observed."""
    candidates, fixed, fp16 = choices(job, job.captured(job.backbone).model.graph)
    sizes = [[sensitivity.bytes_of(c, scheme) for scheme in c.schemes] for c in candidates]
    allocation.budget_of(sizes, fixed, target, fp16)


def choices(job: ExportJob, graph: ir.Graph) -> sensitivity.WidthChoices:
    """`sensitivity.width_choices` with the schemes that the recipe allows."""
    name = job.layout.backbone
    return sensitivity.width_choices(graph, lambda weight, bits: job.scheme(name, weight, bits=bits))


def forget_other_target(folder: Path, backbone: str, target: allocation.Target) -> None:
    """What was observed serves any target; the widths and the backbone of an interrupted run serve their own."""
    noted = folder / TARGET
    if not noted.is_file() or noted.read_text() != repr(target):
        (folder / PRECISION).unlink(missing_ok=True)
        for name in (backbone, f".{backbone}.partial"):
            shutil.rmtree(folder / name, ignore_errors=True)
        write_text(noted, repr(target))


def choose_widths(job: ExportJob, observation: Observation, folder: Path) -> None:
    """Write `folder`/precision.toml: the widths of the backbone's weights that meet the target with least error."""
    target, name = job.settings.target, job.layout.backbone
    if (folder / PRECISION).exists() or target is None:
        return
    graph, weights = observation.graph(name), job.weights(job.backbone)
    candidates, fixed, fp16 = choices(job, ir.load(graph).graph)
    journal = Journal(folder / "sensitivity", "sensitivity")
    with progress.bar(f"{name} sensitivity", len(candidates), "weights", job.quiet) as advance:
        options = sensitivity.sensitivities(
            graph, candidates, weights, observation.feeds_of(name), observation.moments_of(name), journal, advance
        )
    bits = allocation.allocate(options, fixed, target, fp16)
    layers = {**job.spec.recipe.layers, **{f"{name}.{weight}": b for weight, b in bits.items()}}
    write_text(folder / PRECISION, allocation.as_toml(layers, allocation.summary(name, options, bits, fixed, fp16)))
