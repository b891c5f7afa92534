"""ModelSpec -> bundle: capture each component, stream its weights through the quantizer, write what a runtime reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from qsched_edge.bundle.card import versions
from qsched_edge.bundle.verify import verify
from qsched_edge.checkpoint.recipes import ModelSpec, read_layers
from qsched_edge.errors import BundleError
from qsched_edge.export.component import write_component, write_whole
from qsched_edge.export.finish import finish
from qsched_edge.export.graphs import Graphs, graph_part
from qsched_edge.export.job import ExportJob, job_of
from qsched_edge.export.settings import ExportSettings
from qsched_edge.export.widths import PRECISION, WIDTHS, check_target, choose_widths
from qsched_edge.observe.observation import Observation, write_feeds, write_moments
from qsched_edge.pipelines import ComponentPlan
from qsched_edge.prompts import PromptSet
from qsched_edge.work.memory import RamLimit
from qsched_edge.work.progress import saying
from qsched_edge.work.staging import Staging, check_output, write_bytes

TRACES = ("reference", "feeds", "moments")  # parts of the staging folder that no bundle holds


def export(
    spec: ModelSpec,
    settings: ExportSettings,
    output: Path,
    force: bool = False,
    quiet: bool = False,
    observation: Observation | None = None,
) -> Path:
    """Write the bundle of `spec` to `output` with all coefficients one; finished components survive an interruption.

    `observation` is an earlier one of the same model and prompts; without it the export makes its own where it needs
    one.
    """
    check_output(output, force)
    with saying("reading the model: schedules, tokenizers, hashes of the weights", quiet):
        job = job_of(spec, settings, quiet)
    return run(job, output, force, observation)


def run(job: ExportJob, output: Path, force: bool = False, observation: Observation | None = None) -> Path:
    """The stages of one export, each a part of the staging folder."""
    settings = job.settings
    arguments = {
        "recipe": repr(job.spec.recipe),
        "settings": repr(replace(settings, ram=RamLimit(), target=None)),
        "mixed": settings.target is not None,
        "sources": job.sources,
        "versions": versions(),
        "prompts": job.watched,
    }
    with Staging(output, arguments, force) as staging:
        job = replace(job, graphs=job.graphs or Graphs(staging, job.quiet))
        if settings.target:
            check_target(job, settings.target)
        if job.prompts and not all(staging.finished(name, key) for name, key in keys_of(job).items()):
            observation = observation or observed(job, job.prompts, staging)
        if settings.target:
            choose = partial(choose_widths, job, observation, staging.journal("sensitivity"))
            chosen = staging.part(WIDTHS, choose, keys_of(job)[WIDTHS]) / PRECISION
            job = job.with_layers(read_layers(chosen))
        for plan in job.layout.components:
            write = writer_of(job, plan, observation if job.prompts else None)
            staging.part(plan.name, write, keys_of(job)[plan.name])
        traces = (*TRACES, *(graph_part(c.name) for c in job.layout.components))
        staging.drop(name for name in traces if (staging.folder / name).exists())
        if settings.target:
            write_bytes(staging.folder / PRECISION, chosen.read_bytes())
        with saying("hashing the bundle and running its self-test", job.quiet):
            finish(job, staging.folder)
    return output


def keys_of(job: ExportJob) -> dict[str, Any]:
    """The parts that a bundle is finished of, and what each was made for: widths and backbone serve one target, all
    else serves any."""
    target = job.settings.target
    return {
        **({WIDTHS: repr(target)} if target else {}),
        **{c.name: repr(target) if c.name == job.layout.backbone else None for c in job.layout.components},
    }


def writer_of(job: ExportJob, plan: ComponentPlan, observation: Observation | None) -> Callable[[Path], None]:
    """What writes a component's files into a folder."""
    if observation and job.settings.whole and plan.name == job.layout.backbone:
        return partial(write_whole, job, plan, observation)
    moments_of = observation.moments_of(plan.name) if observation else lambda name: None
    return partial(write_component, job, plan, moments_of)


def observed(job: ExportJob, prompts: PromptSet, staging: Staging) -> Observation:
    """Export the model in 32 bits, draw the prompts with it, gather moments where the method uses them."""
    settings = job.settings
    reference = staging.part("reference", partial(write_reference, job.in_full()))
    count = settings.observed.count
    feeds = staging.part("feeds", partial(write_feeds, reference / "bundle", prompts, count, job.quiet))
    found = Observation(reference / "bundle", feeds, None)
    if not settings.uses_moments:
        return found
    names = [c.name for c in job.layout.components]
    write = partial(write_moments, found, names, settings.ram, job.quiet)
    return replace(found, moments=staging.part("moments", write))


def write_reference(job: ExportJob, folder: Path) -> None:
    """`folder`/bundle, unless an interrupted run has finished it and it is sound."""
    try:
        verify(folder / "bundle")
    except BundleError:
        run(job, folder / "bundle", force=True)
