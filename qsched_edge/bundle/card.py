"""What a bundle says of itself in words: pipeline index, licences, provenance, the card model hubs read."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.pipelines import Layout
from qsched_edge.work.staging import not_json, write_text

if TYPE_CHECKING:
    from qsched_edge.export.run import ExportSettings

PACKAGES = ("qsched-edge", "torch", "diffusers", "transformers", "onnx", "onnxruntime", "neural-compressor")


def model_index(spec: ModelSpec, layout: Layout, scheduler: str) -> dict[str, Any]:
    """The pipeline's own index without what the bundle does not hold (safety checker, feature extractor), with the
    class of the scheduler and tokenizer classes that read tokenizer.json in every version of transformers."""
    held = {c.component for c in layout.components} | set(layout.tokenizers)
    index = {k: v for k, v in spec.index.items() if k in held or not isinstance(v, list)}
    for name in layout.tokenizers:
        library, stock = index[name]
        index[name] = [library, stock.removesuffix("Fast") + "Fast"]
    return {**index, "scheduler": ["diffusers", scheduler]}


def scheduler_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration without what JSON lacks: some stock files say -Infinity for a solver's option that
    no scheduler supported here has."""
    return {k: v for k, v in config.items() if not_json(v) is None}


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


def provenance(
    spec: ModelSpec, settings: ExportSettings, sources: Mapping[str, str], prompts: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Where the weights come from and how they were quantized; `prompts` were drawn to observe the model."""
    return {
        "recipe": spec.recipe.name,
        "title": spec.recipe.title,
        "license": spec.recipe.license,
        "credits": spec.recipe.credits,
        "bits": settings.bits,
        "activation_bits": settings.activation_bits,
        "choices": asdict(settings.choices),
        "method": settings.method,
        "calibration_prompts": dict(prompts or {}),
        "target": settings.target and asdict(settings.target),
        "group_size": spec.recipe.group_size,
        "symmetric": spec.recipe.symmetric,
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
