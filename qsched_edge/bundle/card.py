"""What a bundle says of itself in words: pipeline index, licences, provenance, the card model hubs read."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qsched_edge.checkpoint.recipes import ModelSpec, Recipe
from qsched_edge.errors import BundleError
from qsched_edge.observe.allocation import Target
from qsched_edge.pipelines import Choices, Layout
from qsched_edge.work.staging import not_json, write_text

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


@dataclass(frozen=True)
class Provenance:
    """Where a bundle's weights come from and how they were quantized; `calibration_prompts` were drawn to observe the
    model, `sources` are SHA-256 of its files by COMPONENT/FILE."""

    recipe: str
    title: str
    license: str
    credits: str
    bits: int
    activation_bits: int
    choices: Choices
    method: str
    calibration_prompts: Mapping[str, Any]
    target: Target | None
    group_size: int
    symmetric: bool
    sources: Mapping[str, str]
    versions: Mapping[str, str]

    def json(self) -> dict[str, Any]:
        return {f.name: plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Provenance:
        """The inverse of `json`; raises BundleError for a bundle that says less or more."""
        try:
            target = raw["target"]
            typed = {"choices": Choices(**raw["choices"]), "target": Target(**target) if target else None}
            return cls(**{**raw, **typed})
        except (KeyError, TypeError) as error:
            raise BundleError(f"the bundle's provenance cannot be read ({error!r}): export it again") from error


def plain(value: Any) -> Any:
    """As JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return dict(value) if isinstance(value, Mapping) else value


def model_card(recipe: Recipe, precision: str, method: str, raw: Mapping[str, Any]) -> str:
    """A README with the front matter model hubs read."""
    rows = "\n".join(f"| {name} | {c['precision']} |" for name, c in raw["components"].items())
    return f"""---
pipeline_tag: text-to-image
library_name: onnxruntime
license: {recipe.license.lower()}
base_model_relation: quantized
tags: [onnx, onnxruntime, int4, qsched]
---
# {recipe.title}

A qsched-edge bundle, exported at {precision}
(method {method}, groups of at most {recipe.group_size}).

| component | precision |
|---|---|
{rows}

```python
from qsched_runtime import Sampler

image = Sampler.from_pretrained(".")("your prompt", seed=42).images[0]  # uint8 [H, W, 3]
```

Licence: {recipe.license}. {recipe.credits}
"""
