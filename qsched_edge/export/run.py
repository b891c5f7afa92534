"""ModelSpec -> bundle: capture each component, stream its weights through the quantizer, write what a runtime reads."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import onnx_ir as ir
from qsched_runtime import manifest as manifests
from qsched_runtime.manifest import NAME, sha256
from qsched_runtime.schedule import ScheduleTable

from qsched_edge.bundle import write as bundle
from qsched_edge.bundle.card import copy_licenses, model_card, model_index, provenance, scheduler_json, versions
from qsched_edge.capture.graph import Captured
from qsched_edge.checkpoint.checks import check_recipe
from qsched_edge.checkpoint.lora import FusedWeights, lora_components
from qsched_edge.checkpoint.recipes import ModelSpec, Recipe, read_json, read_layers
from qsched_edge.checkpoint.schedule import probe
from qsched_edge.checkpoint.tokenizers import Tokenizer, load_tokenizers
from qsched_edge.checkpoint.weights import Weights, weight_files
from qsched_edge.errors import QuantizeError, RecipeError, WeightsError, unknown_name
from qsched_edge.observe import allocation, sensitivity
from qsched_edge.observe.observation import Calibration, MomentsOf, Observation, write_feeds, write_moments
from qsched_edge.pipelines import Choices, ComponentPlan, Layout, layout_of
from qsched_edge.precision import Scheme
from qsched_edge.prompts import PromptSet
from qsched_edge.quantize import methods
from qsched_edge.quantize.layers.other import SMALL_WEIGHT
from qsched_edge.quantize.resident import file_bytes, resident_if_large
from qsched_edge.quantize.rewrite import GRAPH, Layer, write_graph
from qsched_edge.work import progress
from qsched_edge.work.journal import Journal
from qsched_edge.work.memory import RamLimit
from qsched_edge.work.staging import Staging, refuse_existing, write_json, write_text

LAYERS = "quantization.json"
UNPACKED = 2  # a running bundle takes about this many times its files
PRECISION, TARGET = "precision.toml", "target.txt"
TRACES = ("reference", "feeds", "moments", "sensitivity")  # parts of the staging folder that no bundle holds


@dataclass(frozen=True)
class ExportSettings:
    """`bits` 2, 3, 4, 8, 16 or 32 for the weights, `activation_bits` 8 or 16; `method` names the quantizer; `target`
    lets the backbone's widths be chosen by weight."""

    bits: int = 4
    method: str = "rtn"
    choices: Choices = field(default_factory=Choices)
    ram: RamLimit = field(default_factory=RamLimit)
    activation_bits: int = 16
    calibration: Calibration = field(default_factory=Calibration)
    target: allocation.Target | None = None

    def __post_init__(self) -> None:
        if not self.calibration.count and self.target:
            raise QuantizeError("a target size is reached by observing the model: --calib-count must not be 0")
        methods.method_named(self.method).check(
            bits=self.bits,
            activation_bits=self.activation_bits,
            has_target=self.target is not None,
            ram_limited=self.ram.limit is not None,
            observes=self.calibration.count > 0,
        )

    @property
    def precision(self) -> str:
        """W4A16, FP16, ...: what the weights get that no recipe keeps."""
        return Scheme(self.bits, activation_bits=self.activation_bits).name

    def scheme(self, recipe: Recipe, component: str, weight: str, kind: str = "", bits: int | None = None) -> Scheme:
        """What `weight` gets when the rest gets `bits` (default: the settings')."""
        method = methods.method_named(self.method).tables if kind == "embedding" or self.whole else ""
        return recipe.scheme(component, weight, bits or self.bits, method or self.method, self.activation_bits)

    @property
    def whole(self) -> bool:
        """Does the method take the backbone's graph as a whole?"""
        return isinstance(methods.method_named(self.method), methods.WholeGraphMethod)

    @property
    def uses_moments(self) -> bool:
        return methods.method_named(self.method).observes and self.calibration.count > 0 and self.bits < 16

    @property
    def observes(self) -> bool:
        return self.uses_moments or self.target is not None or self.whole


@dataclass(frozen=True)
class Prepared:
    """What a bundle takes from a model's small files."""

    scheduler: Mapping[str, Any]
    schedules: Mapping[int, ScheduleTable]
    tokenizers: Mapping[str, Tokenizer]


def target_of(size: int | None, ratio: float | None) -> allocation.Target | None:
    """None where neither is given; both are refused."""
    return None if size is None and ratio is None else allocation.Target(size, ratio)


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
    refuse_existing(output, force)
    layout = layout_of(spec, settings.choices)
    prepared = prepare(spec, settings, layout)
    if settings.target:
        check_target(spec, settings, layout, settings.target)
    prompts = settings.calibration.prompt_set(spec) if settings.observes else None
    watched = prompts.record(settings.calibration.count) if prompts else None
    sources = lora_sources(spec, layout) | source_hashes(spec, layout)
    arguments = {
        "recipe": repr(spec.recipe),
        "settings": repr(replace(settings, ram=RamLimit(), target=None)),
        "mixed": settings.target is not None,
        "sources": sources,
        "versions": versions(),
        "prompts": watched,
    }
    with Staging(output, arguments, force) as staging:
        if settings.target:
            forget_other_target(staging.folder, layout.backbone, settings.target)
        if prompts and not all((staging.folder / c.name).exists() for c in layout.components):
            observation = observation or observed(spec, settings, layout, prompts, staging, quiet)
            choose_precision(spec, settings, layout, observation, staging.folder, quiet)
        if settings.target:
            spec = replace(spec, recipe=replace(spec.recipe, layers=read_layers(staging.folder / PRECISION)))
        for plan in layout.components:
            moments_of = observation.moments_of(plan.name) if observation and prompts else lambda name: None
            write = partial(write_component, spec, plan, settings, quiet, moments_of)
            if settings.whole and observation and plan.name == layout.backbone:
                write = partial(write_whole, spec, plan, settings, observation)
            staging.part(plan.name, write)
        staging.drop(name for name in TRACES if (staging.folder / name).exists())
        (staging.folder / TARGET).unlink(missing_ok=True)
        finish(spec, settings, layout, prepared, staging.folder, sources, watched)
    return output


def prepare(spec: ModelSpec, settings: ExportSettings, layout: Layout) -> Prepared:
    """Everything that can be refused without reading a weight, is refused here."""
    check_recipe(spec, layout_of(spec, replace(settings.choices, encoder=True)))
    scheduler = spec.scheduler_config()
    schedules = {steps: probe(scheduler, steps, layout.sampling) for steps in spec.recipe.steps}
    return Prepared(scheduler, schedules, load_tokenizers(spec, layout))


def check_target(spec: ModelSpec, settings: ExportSettings, layout: Layout, target: allocation.Target) -> None:
    """Raise QuantizeError for a target that no choice of widths reaches, before anything is observed."""
    (plan,) = (c for c in layout.components if c.name == layout.backbone)
    candidates, fixed, fp16 = candidates_of(spec, settings, plan.name, captured_of(plan).model.graph)
    sizes = [[sensitivity.bytes_of(c, scheme) for scheme in c.schemes] for c in candidates]
    allocation.budget_of(sizes, fixed, target, fp16)


def candidates_of(
    spec: ModelSpec, settings: ExportSettings, component: str, graph: ir.Graph
) -> sensitivity.WidthChoices:
    """`sensitivity.width_choices` with the schemes that the recipe allows."""
    return sensitivity.width_choices(
        graph, lambda weight, bits: settings.scheme(spec.recipe, component, weight, bits=bits)
    )


def forget_other_target(folder: Path, backbone: str, target: allocation.Target) -> None:
    """What was observed serves any target; the widths and the backbone of an interrupted run serve their own."""
    noted = folder / TARGET
    if not noted.is_file() or noted.read_text() != repr(target):
        (folder / PRECISION).unlink(missing_ok=True)
        for name in (backbone, f".{backbone}.partial"):
            shutil.rmtree(folder / name, ignore_errors=True)
        write_text(noted, repr(target))


def check_weights(layers: Mapping[str, int], component: str, known: list[str]) -> None:
    """Raise RecipeError for a precision map that names a weight the component lacks."""
    for name in layers:
        owner, _, weight = name.partition(".")
        if owner == component and weight not in known:
            raise RecipeError(f"precision map: {unknown_name('weight', weight, known)[:300]}")


def observed(
    spec: ModelSpec, settings: ExportSettings, layout: Layout, prompts: PromptSet, staging: Staging, quiet: bool
) -> Observation:
    """Export the model in 32 bits, draw the calibration prompts with it, gather moments where the method uses them."""
    full = replace(spec, recipe=replace(spec.recipe, layers={}))
    count, names = settings.calibration.count, [c.name for c in layout.components]
    in_full = ExportSettings(32, choices=settings.choices, ram=settings.ram)
    reference = staging.part("reference", partial(write_reference, full, in_full, quiet))
    feeds = staging.part("feeds", partial(write_feeds, reference / "bundle", prompts, count, quiet))
    found = Observation(reference / "bundle", feeds, None)
    if not settings.uses_moments:
        return found
    return replace(found, moments=staging.part("moments", partial(write_moments, found, names, settings.ram, quiet)))


def write_reference(spec: ModelSpec, settings: ExportSettings, quiet: bool, folder: Path) -> None:
    """`folder`/bundle, unless an interrupted run has finished it."""
    if not (folder / "bundle").exists():
        export(spec, settings, folder / "bundle", quiet=quiet)


def choose_precision(
    spec: ModelSpec, settings: ExportSettings, layout: Layout, observation: Observation, folder: Path, quiet: bool
) -> None:
    """Write `folder`/precision.toml: the widths of the backbone's weights that meet the target with least error."""
    if (folder / PRECISION).exists() or settings.target is None:
        return
    name, recipe = layout.backbone, spec.recipe
    (plan,) = (c for c in layout.components if c.name == name)
    graph, weights = observation.graph(name), weights_of(spec, plan)
    candidates, fixed, fp16 = candidates_of(spec, settings, name, ir.load(graph).graph)
    journal = Journal(folder / "sensitivity", "sensitivity")
    with progress.bar(f"{name} sensitivity", len(candidates), "weights", quiet) as advance:
        options = sensitivity.sensitivities(
            graph, candidates, weights, observation.feeds_of(name), observation.moments_of(name), journal, advance
        )
    bits = allocation.allocate(options, fixed, settings.target, fp16)
    layers = {**recipe.layers, **{f"{name}.{weight}": b for weight, b in bits.items()}}
    write_text(folder / PRECISION, allocation.as_toml(layers, allocation.summary(name, options, bits, fixed, fp16)))


def source_hashes(spec: ModelSpec, layout: Layout) -> dict[str, str]:
    files = [(c.name, file) for c in layout.components for file in weight_files(c.source, spec.recipe.variant)]
    return {f"{name}/{file.name}": sha256(file) for name, file in files}


def write_component(
    spec: ModelSpec, plan: ComponentPlan, settings: ExportSettings, quiet: bool, moments_of: MomentsOf, folder: Path
) -> None:
    """model.onnx, model.onnx_data, config.json and a report of the precisions in `folder`."""
    captured = captured_of(plan)
    check_weights(spec.recipe.layers, plan.name, captured.weight_names)
    weights = weights_of(spec, plan)
    total = sum(2 * prod(weights.shape(name)) for name in captured.weight_names)
    with progress.bar(f"{plan.name} {settings.precision}", total, "B", quiet) as advance:
        layers = write_graph(
            captured,
            weights,
            lambda name, kind: settings.scheme(spec.recipe, plan.name, name, kind),
            folder,
            advance,
            settings.ram,
            moments_of,
        )
    config = plan.source / "config.json"
    shutil.copyfile(config, folder / "config.json")
    kept = {layer.name: layer.precision for layer in layers if prod(layer.shape) >= SMALL_WEIGHT}
    write_json(folder / LAYERS, {"precision": precision_of(layers), "outputs": captured.outputs, "layers": kept})
    say_memory(plan.name, folder / GRAPH, settings.ram)


def write_whole(
    spec: ModelSpec, plan: ComponentPlan, settings: ExportSettings, observation: Observation, folder: Path
) -> None:
    """The same files as `write_component`, by a method that takes the observed 32-bit graph as a whole."""

    def stays_float(weight: str) -> bool:
        bits = settings.scheme(spec.recipe, plan.name, weight).weight_bits
        if bits < settings.bits:
            raise QuantizeError(f"{settings.method} has no {bits} bits for {weight}: give the precision map 8 or more")
        return bits > settings.bits

    report = read_json(observation.reference / plan.name / LAYERS)
    check_weights(spec.recipe.layers, plan.name, list(report["layers"]))
    quantize = methods.method_named(settings.method).load()
    integers = quantize(observation.graph(plan.name), observation.feeds_of(plan.name), stays_float, folder / GRAPH)
    layers = {name: settings.precision if name in integers else found for name, found in report["layers"].items()}
    shutil.copyfile(plan.source / "config.json", folder / "config.json")
    write_json(folder / LAYERS, {**report, "precision": settings.precision, "layers": layers})
    say_memory(plan.name, folder / GRAPH, settings.ram)


def say_memory(name: str, graph: Path, ram: RamLimit) -> None:
    """What loading a large component takes; measured in a process of its own, so only where the memory holds it."""
    if ram.holds(UNPACKED * file_bytes(graph)):
        memory = resident_if_large(graph)
        found = memory.line if memory else ""
    else:
        found = "not loaded to see whether its weights stay packed: that takes more memory than allowed"
    if found:
        print(f"{name}: {found}", file=sys.stderr)


def captured_of(plan: ComponentPlan) -> Captured:
    return plan.capture()


def weights_of(spec: ModelSpec, plan: ComponentPlan) -> Weights:
    """The component's tensors, with the recipe's LoRA fused in where it has one for them."""
    base = Weights(weight_files(plan.source, spec.recipe.variant), plan.prefixes, plan.aliases)
    lora = spec.lora_file()
    if lora is None or plan.component not in lora_components(lora):
        return base
    return FusedWeights(base, lora, plan.component, spec.recipe.lora_scale)


def lora_sources(spec: ModelSpec, layout: Layout) -> dict[str, str]:
    """The LoRA's hash for the provenance; raises WeightsError if it has keys for a component the pipeline lacks."""
    file = spec.lora_file()
    if file is None:
        return {}
    strangers = sorted(set(lora_components(file)) - {c.component for c in layout.components})
    if strangers:
        raise WeightsError(f"{file.name} is for {', '.join(strangers)}, which this pipeline lacks: give another LoRA")
    return {f"lora/{file.name}": sha256(file)}


def precision_of(layers: list[Layer]) -> str:
    """The scheme that most of the component's weights have."""
    counts: Counter[str] = Counter()
    for layer in layers:
        counts[layer.precision] += prod(layer.shape)
    return counts.most_common(1)[0][0]


def finish(
    spec: ModelSpec,
    settings: ExportSettings,
    layout: Layout,
    prepared: Prepared,
    folder: Path,
    sources: Mapping[str, str],
    prompts: Mapping[str, Any] | None,
) -> None:
    """Everything but the graphs: tokenizers, schedules, licences, card, self-test and, last, qsched.json."""
    reports = {c.name: read_json(folder / c.name / LAYERS) for c in layout.components}
    tokenizers = {name: prepared.tokenizers[name].write(folder / name) for name in layout.tokenizers}
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler/scheduler_config.json", scheduler_json(prepared.scheduler))
    write_json(folder / "model_index.json", model_index(spec, layout, prepared.scheduler["_class_name"]))
    copy_licenses(spec, folder)
    if spec.recipe.layers and not settings.target:
        write_text(folder / PRECISION, allocation.as_toml(spec.recipe.layers))
    raw = bundle.manifest_json(
        spec.recipe.name,
        layout,
        {name: report["precision"] for name, report in reports.items()},
        {name: tuple(report["outputs"]) for name, report in reports.items()},
        tokenizers,
        prepared.schedules,
        provenance(spec, settings, sources, prompts),
    )
    write_text(folder / "README.md", model_card(spec, settings, raw))
    add_selftest(raw, folder, settings.ram)


def add_selftest(raw: Mapping[str, Any], folder: Path, ram: RamLimit) -> None:
    """qsched.json and the self-test; one step of the network belongs to it if the memory holds the network."""
    (folder / "selftest").mkdir(exist_ok=True)
    (folder / bundle.GOLDEN).unlink(missing_ok=True)
    files = bundle.list_files(folder)
    write_json(folder / NAME, {**raw, "files": files})
    needed = UNPACKED * sum(file["bytes"] for file in files)
    network = ram.holds(needed)
    if not network:
        room = f"{needed / 2**30:.1f} GiB"
        print(f"self-test: running the network takes about {room}, so none of its output is recorded", file=sys.stderr)
    write_json(folder / bundle.GOLDEN, bundle.golden(manifests.read(folder), folder, network))
    write_json(folder / NAME, {**raw, "files": [*files, bundle.file_entry(folder, folder / bundle.GOLDEN)]})
