"""The files that a model's weights come from, by their hashes; and the recipe as qsched.json stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from qsched_runtime.manifest import sha256

from qsched_edge._shelf import shelf
from qsched_edge.checkpoint.inversion import inversion_files
from qsched_edge.checkpoint.lora import lora_components
from qsched_edge.checkpoint.recipes import ModelSpec, Recipe, typed
from qsched_edge.errors import BundleError, RecipeError, WeightsError, unknown_name
from qsched_edge.pipelines import Layout

SHELF = "shelf"  # stands for the project's own folder of recipes, wherever that is


def source_hashes(spec: ModelSpec, layout: Layout) -> dict[str, str]:
    """SHA-256 of every file of weights by "component/file", the LoRA's and the learned words' first.

    Raises WeightsError if the LoRA has keys for a component that the pipeline lacks."""
    words = {f"textual_inversion/{i}/{f.name}": sha256(f) for i, f in enumerate(inversion_files(spec))}
    files = [(c.name, file) for c in layout.components for file in spec.weight_files(c.component, c.source)]
    hashes = {file: sha256(file) for file in dict.fromkeys(file for _, file in files)}  # one file may hold several
    return lora_hash(spec, layout) | words | {f"{name}/{file.name}": hashes[file] for name, file in files}


def lora_hash(spec: ModelSpec, layout: Layout) -> dict[str, str]:
    file = spec.lora_file()
    if file is None:
        return {}
    strangers = sorted(set(lora_components(file)) - {c.component for c in layout.components})
    if strangers:
        raise WeightsError(f"{file.name} is for {', '.join(strangers)}, which this pipeline lacks: give another LoRA")
    return {f"lora/{file.name}": sha256(file)}


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe's keys that differ from their defaults, and its name.

    `folder`, which its paths start from, is "shelf" for the project's own recipes, so that they are found wherever the
    project is; else it is absolute, and it is left out where a recipe was made of a plain folder or repository."""
    found = {f.name: getattr(recipe, f.name) for f in fields(Recipe) if getattr(recipe, f.name) != default_of(f)}
    if "folder" in found:
        ours = recipe.folder == shelf("export").resolve()
        found["folder"] = SHELF if ours else str(recipe.folder.resolve())
    return {key: dict(value) if isinstance(value, Mapping) else value for key, value in found.items()}


def default_of(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def recipe_from_json(stored: Mapping[str, Any], where: Path) -> Recipe:
    """The inverse of `recipe_to_json`; BundleError for a key that is unknown, missing or of another type."""
    known = [f.name for f in fields(Recipe)]
    for key in stored:
        if key not in known:
            raise BundleError(f"{where}: the stored recipe has an {unknown_name('key', key, known)}")
    folder = {"folder": str(shelf("export").resolve())} if stored.get("folder") == SHELF else {}
    try:
        found: Recipe = typed(Recipe, {**stored, **folder}, f"{where}, the stored recipe")
    except RecipeError as error:
        raise BundleError(str(error)) from error
    return found
