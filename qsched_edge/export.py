"""ModelSpec -> bundle: capture each component, stream its weights through the quantizer, write what a runtime reads."""

from __future__ import annotations

import platform
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

from qsched_runtime import manifest as manifests
from qsched_runtime.manifest import NAME, TokenizerSpec, sha256

from qsched_edge import bundle, progress, torchvision_schema
from qsched_edge.capture.graph import Captured
from qsched_edge.errors import WeightsError
from qsched_edge.lora import FusedWeights, lora_components
from qsched_edge.memory import RamLimit
from qsched_edge.pipelines import Choices, ComponentPlan, Layout, layout_of
from qsched_edge.quantize.encode import SMALL
from qsched_edge.quantize.resident import Resident, resident_if_large
from qsched_edge.quantize.rewrite import GRAPH, Layer, write_graph
from qsched_edge.quantize.scheme import Scheme
from qsched_edge.recipes import ModelSpec, read_json
from qsched_edge.schedule import probe
from qsched_edge.staging import Staging, write_json, write_text
from qsched_edge.weights import Weights, weight_files

LAYERS = "quantization.json"
UNPACKED = 2  # a running bundle takes about this many times its files
TOKENIZERS = {"CLIPTokenizer": "clip", "T5Tokenizer": "unigram"}  # class -> kind in qsched.json
PACKAGES = ("qsched-edge", "torch", "diffusers", "transformers", "onnx", "onnxruntime", "neural-compressor")


@dataclass(frozen=True)
class ExportSettings:
    """`bits` 2, 3, 4, 8, 16 or 32 for the weights, `activation_bits` 8 or 16; `method` names the quantizer."""

    bits: int = 4
    method: str = "rtn"
    choices: Choices = field(default_factory=Choices)
    ram: RamLimit = field(default_factory=RamLimit)
    activation_bits: int = 16

    @property
    def precision(self) -> str:
        """W4A16, FP16, ...: what the weights get that no recipe keeps."""
        return Scheme(self.bits, activation_bits=self.activation_bits).name


def export(spec: ModelSpec, settings: ExportSettings, output: Path, force: bool = False, quiet: bool = False) -> Path:
    """Write the bundle of `spec` to `output` with all coefficients one; finished components survive an interruption."""
    layout = layout_of(spec, settings.choices)
    sources = source_hashes(spec, layout) | lora_sources(spec, layout)
    arguments = {
        "recipe": repr(spec.recipe),
        "settings": repr(replace(settings, ram=RamLimit())),
        "sources": sources,
        "versions": versions(),
    }
    with Staging(output, arguments, force) as staging:
        for plan in layout.components:
            staging.part(plan.name, partial(write_component, spec, plan, settings, quiet))
        finish(spec, settings, layout, staging.folder, sources)
    return output


def source_hashes(spec: ModelSpec, layout: Layout) -> dict[str, str]:
    files = [(c.name, file) for c in layout.components for file in weight_files(c.source, spec.recipe.variant)]
    return {f"{name}/{file.name}": sha256(file) for name, file in files}


def write_component(spec: ModelSpec, plan: ComponentPlan, settings: ExportSettings, quiet: bool, folder: Path) -> None:
    """model.onnx, model.onnx_data, config.json and a report of the precisions in `folder`."""
    captured = captured_of(plan)
    weights = weights_of(spec, plan)
    total = sum(2 * prod(weights.shape(name)) for name in captured.weight_names)
    with progress.bar(f"{plan.name} {settings.precision}", total, "B", quiet) as advance:
        layers = write_graph(
            captured,
            weights,
            lambda name, kind: spec.recipe.scheme(
                plan.name, name, settings.bits, settings.method, settings.activation_bits
            ),
            folder,
            advance,
            settings.ram,
        )
    config = plan.source / "config.json"
    shutil.copyfile(config, folder / "config.json")
    kept = {layer.name: layer.precision for layer in layers if prod(layer.shape) >= SMALL}
    report = {"precision": precision_of(layers), "outputs": captured.outputs, "layers": kept}
    memory = resident_if_large(folder / GRAPH)
    write_json(folder / LAYERS, report if memory is None else {**report, "memory": asdict(memory)})


def memory_lines(folder: Path) -> list[str]:
    """What loading each large component takes, as the export measured it."""
    reports = {path.parent.name: read_json(path) for path in sorted(folder.glob(f"*/{LAYERS}"))}
    return [f"{name}: {Resident(**found['memory']).line}" for name, found in reports.items() if "memory" in found]


def captured_of(plan: ComponentPlan) -> Captured:
    return plan.capture()


def weights_of(spec: ModelSpec, plan: ComponentPlan) -> Weights:
    """The component's tensors, with the recipe's LoRA fused in where it has one for them."""
    base = Weights(weight_files(plan.source, spec.recipe.variant), plan.prefixes, plan.aliases)
    if not spec.recipe.lora or plan.component not in lora_components(spec.locate(spec.recipe.lora)):
        return base
    return FusedWeights(base, spec.locate(spec.recipe.lora), plan.component, spec.recipe.lora_scale)


def lora_sources(spec: ModelSpec, layout: Layout) -> dict[str, str]:
    """The LoRA's hash for the provenance; raises WeightsError if it has keys for a component the pipeline lacks."""
    if not spec.recipe.lora:
        return {}
    file = spec.locate(spec.recipe.lora)
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


def finish(spec: ModelSpec, settings: ExportSettings, layout: Layout, folder: Path, sources: Mapping[str, str]) -> None:
    """Everything but the graphs: tokenizers, schedules, licences, card, self-test and, last, qsched.json."""
    reports = {c.name: read_json(folder / c.name / LAYERS) for c in layout.components}
    tokenizers = {name: write_tokenizer(spec, name, folder / name) for name in layout.tokenizers}
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(folder / "scheduler/scheduler_config.json", spec.scheduler_config())
    write_json(folder / "model_index.json", model_index(spec, layout))
    copy_licenses(spec, folder)
    raw = bundle.manifest_json(
        spec.recipe.name,
        layout,
        {name: report["precision"] for name, report in reports.items()},
        {name: tuple(report["outputs"]) for name, report in reports.items()},
        tokenizers,
        {steps: probe(spec.scheduler_config(), steps, layout.sampling) for steps in spec.recipe.steps},
        provenance(spec, settings, sources),
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


def write_tokenizer(spec: ModelSpec, name: str, folder: Path) -> TokenizerSpec:
    """Save tokenizer.json (older checkpoints lack it) and say what the runtime must know of the tokenizer."""
    torchvision_schema.declare()
    import transformers

    kind = TOKENIZERS[spec.index[name][1].removesuffix("Fast")]
    stock = getattr(transformers, spec.index[name][1].removesuffix("Fast"))
    tokenizer = stock.from_pretrained(spec.part(name), local_files_only=True)
    tokenizer.save_pretrained(folder)
    name_special_tokens_as_always(folder / "tokenizer_config.json")
    length = spec.recipe.sequence_length if kind == "unigram" else tokenizer.model_max_length
    bos_id = -1 if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return TokenizerSpec(
        kind, f"{name}/tokenizer.json", length, bos_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    )  # fmt: skip


def name_special_tokens_as_always(path: Path) -> None:
    """transformers 5 lists extra special tokens under a key that earlier versions expect to be a table."""
    config = read_json(path)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
        write_json(path, config)


def model_index(spec: ModelSpec, layout: Layout) -> dict[str, Any]:
    """The pipeline's own index without what the bundle does not hold (safety checker, feature extractor), with the
    scheduler the recipe chose and tokenizer classes that read tokenizer.json in every version of transformers."""
    held = {c.component for c in layout.components} | set(layout.tokenizers)
    index = {k: v for k, v in spec.index.items() if k in held or not isinstance(v, list)}
    for name in layout.tokenizers:
        library, stock = index[name]
        index[name] = [library, stock.removesuffix("Fast") + "Fast"]
    return {**index, "scheduler": ["diffusers", spec.scheduler_config()["_class_name"]]}


def copy_licenses(spec: ModelSpec, folder: Path) -> None:
    """The model's licence files, or a notice of what the recipe says of them."""
    target = folder / "LICENSES"
    shutil.rmtree(target, ignore_errors=True)
    if (spec.folder / "LICENSES").is_dir():
        shutil.copytree(spec.folder / "LICENSES", target)
    target.mkdir(exist_ok=True)
    write_text(target / "NOTICE", f"{spec.recipe.title}\nLicence: {spec.recipe.license}\n{spec.recipe.credits}\n")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def provenance(spec: ModelSpec, settings: ExportSettings, sources: Mapping[str, str]) -> dict[str, Any]:
    return {
        "recipe": spec.recipe.name,
        "title": spec.recipe.title,
        "license": spec.recipe.license,
        "credits": spec.recipe.credits,
        "bits": settings.bits,
        "activation_bits": settings.activation_bits,
        "choices": asdict(settings.choices),
        "method": settings.method,
        "group_size": spec.recipe.group_size,
        "sources": dict(sources),
        "versions": versions(),
    }


def model_card(spec: ModelSpec, settings: ExportSettings, raw: Mapping[str, Any]) -> str:
    """A README with the front matter model hubs read."""
    rows = "\n".join(f"| {name} | {c['precision']} |" for name, c in raw["components"].items())
    return f"""---
pipeline_tag: text-to-image
library_name: onnxruntime
license: {spec.recipe.license.lower()}
base_model_relation: quantized
tags: [onnx, onnxruntime, int4, qsched]
---
# {spec.recipe.title}

A qsched-edge bundle, exported at {settings.precision}
(method {settings.method}, groups of at most {spec.recipe.group_size}).

| component | precision |
|---|---|
{rows}

```python
from qsched_runtime import Sampler

image = Sampler.from_pretrained(".")("your prompt", seed=42).images[0]  # uint8 [H, W, 3]
```

Licence: {spec.recipe.license}. {spec.recipe.credits}
"""
