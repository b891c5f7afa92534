"""A width for each weight of the backbone, chosen to meet a target size with the least error."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from qsched_edge.export.job import ExportJob
from qsched_edge.observe import allocation, sensitivity
from qsched_edge.observe.observation import Observation
from qsched_edge.work import progress
from qsched_edge.work.journal import Journal
from qsched_edge.work.staging import write_text

PRECISION = "precision.toml"
WIDTHS = ".widths"  # the part of the staging folder that holds it; hidden ones are no part of the bundle


def check_target(job: ExportJob, target: allocation.Target) -> None:
    """Raise QuantizeError for a target that no choice of widths reaches, before anything is observed."""
    candidates, fixed, fp16 = choices(job, job.captured(job.backbone).model.graph)
    sizes = [[sensitivity.bytes_of(c, scheme) for scheme in c.schemes] for c in candidates]
    allocation.budget_of(sizes, fixed, target, fp16)


def choices(job: ExportJob, graph: ir.Graph) -> sensitivity.WidthChoices:
    """`sensitivity.width_choices` with the schemes that the recipe allows."""
    name = job.layout.backbone
    return sensitivity.width_choices(graph, lambda weight, bits: job.scheme(name, weight, bits=bits))


def choose_widths(job: ExportJob, observation: Observation | None, measured: Path, folder: Path) -> None:
    """Write `folder`/precision.toml: the widths of the backbone's weights that meet the target with least error.

    `measured` is the journal's folder: how much each width costs holds for any target.
    """
    target, name = job.settings.target, job.layout.backbone
    assert target is not None
    assert observation is not None, "a target is met by what was observed"
    graph, weights = observation.graph(name), job.weights(job.backbone)
    candidates, fixed, fp16 = choices(job, ir.load(graph).graph)
    journal = Journal(measured, "sensitivity")
    with progress.bar(f"{name} sensitivity", len(candidates), "weights", job.quiet) as advance:
        options = sensitivity.sensitivities(
            graph, candidates, weights, observation.feeds_of(name), observation.moments_of(name), journal, advance
        )
    bits = allocation.allocate(options, fixed, target, fp16)
    layers = {**job.spec.recipe.layers, **{f"{name}.{weight}": b for weight, b in bits.items()}}
    write_text(folder / PRECISION, allocation.as_toml(layers, allocation.summary(name, options, bits, fixed, fp16)))
