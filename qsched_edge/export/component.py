"""One component of the bundle: its graph, its weights streamed through the quantizer, its configuration, a report."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path

from qsched_edge.checkpoint.inversion import learned
from qsched_edge.checkpoint.recipes import read_json
from qsched_edge.checkpoint.weights import check_cover
from qsched_edge.errors import QuantizeError, RecipeError, unknown_name
from qsched_edge.export.job import ExportJob
from qsched_edge.observe.observation import MomentsOf, Observation
from qsched_edge.pipelines import ComponentPlan
from qsched_edge.quantize.attention import fuse_attention
from qsched_edge.quantize.layers.other import SMALL_WEIGHT
from qsched_edge.quantize.methods import quantizer_of
from qsched_edge.quantize.resident import file_bytes, resident_if_large
from qsched_edge.quantize.rewrite import DATA, GRAPH, REPORT, Layer, write_graph
from qsched_edge.work import progress
from qsched_edge.work.hashes import keep_only
from qsched_edge.work.memory import RamLimit
from qsched_edge.work.staging import JOURNAL, write_json

UNPACKED = 2  # a running bundle takes about this many times its files


def write_component(job: ExportJob, plan: ComponentPlan, moments_of: MomentsOf, folder: Path) -> None:
    """model.onnx, model.onnx_data, config.json and a report of the precisions in `folder`."""
    captured = job.captured(plan)
    settings = job.settings
    keep_only(folder, (DATA, JOURNAL))
    if not settings.portable:
        fuse_attention(captured.model.graph)
    check_weights(job.spec.recipe.layers, plan.name, captured.weight_names)
    weights = job.weights(plan)
    check_cover(weights, captured.weight_names, f"{plan.source}, {plan.component}")
    total = sum(2 * prod(weights.shape(name)) for name in captured.weight_names)
    with progress.bar(f"{plan.name} {settings.precision}", total, "B", job.quiet) as advance:
        layers = write_graph(
            captured,
            weights,
            lambda name, kind: job.scheme(plan.name, name, kind),
            folder,
            advance,
            settings.ram,
            moments_of,
        )
    write_config(job, plan, folder / "config.json")
    kept = {layer.name: layer.precision for layer in layers if prod(layer.shape) >= SMALL_WEIGHT}
    write_json(folder / REPORT, {"precision": precision_of(layers), "outputs": captured.outputs, "layers": kept})
    say_memory(plan.name, folder / GRAPH, settings.ram)


def write_config(job: ExportJob, plan: ComponentPlan, file: Path) -> None:
    """The component's own, with the rows that learned words add to its table of tokens."""
    added = sum(word.vectors for word in learned(job.spec, plan.component))
    if not added:
        shutil.copyfile(plan.source / "config.json", file)
        return
    rows = job.spec.config(plan.component)["vocab_size"] + added
    write_json(file, {**read_json(plan.source / "config.json"), "vocab_size": rows})


def write_whole(job: ExportJob, plan: ComponentPlan, observation: Observation, folder: Path) -> None:
    """The same files as `write_component`, by a method that takes the observed 32-bit graph as a whole."""
    settings = job.settings

    def stays_float(weight: str) -> bool:
        bits = job.scheme(plan.name, weight).weight_bits
        if bits < settings.bits:
            raise QuantizeError(f"{settings.method} has no {bits} bits for {weight}: give the precision map 8 or more")
        return bits > settings.bits

    report = read_json(observation.reference / plan.name / REPORT)
    check_weights(job.spec.recipe.layers, plan.name, list(report["layers"]))
    integers = quantizer_of(settings.method)(
        observation.graph(plan.name), observation.feeds_of(plan.name), stays_float, folder / GRAPH
    )
    layers = {name: settings.precision if name in integers else found for name, found in report["layers"].items()}
    shutil.copyfile(plan.source / "config.json", folder / "config.json")
    write_json(folder / REPORT, {**report, "precision": settings.precision, "layers": layers})
    say_memory(plan.name, folder / GRAPH, settings.ram)


def check_weights(layers: Mapping[str, int], component: str, known: list[str]) -> None:
    """Raise RecipeError for a precision map that names a weight the component lacks."""
    for name in layers:
        owner, _, weight = name.partition(".")
        if owner == component and weight not in known:
            raise RecipeError(f"precision map: {unknown_name('weight', weight, known)[:300]}")


def precision_of(layers: list[Layer]) -> str:
    """The scheme that most of the component's weights have."""
    counts: Counter[str] = Counter()
    for layer in layers:
        counts[layer.precision] += prod(layer.shape)
    return counts.most_common(1)[0][0]


def say_memory(name: str, graph: Path, ram: RamLimit) -> None:
    """What loading a large component takes; measured in a process of its own, so only where the memory holds it."""
    if ram.holds(UNPACKED * file_bytes(graph)):
        memory = resident_if_large(graph)
        found = memory.line if memory else ""
    else:
        found = "not loaded to see whether its weights stay packed: that takes more memory than allowed"
    if found:
        print(f"{name}: {found}", file=sys.stderr)
