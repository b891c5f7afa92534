"""A recipe name, a recipe file or a diffusers folder -> ModelSpec: which checkpoint, how sampled and quantized."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from qsched_edge._shelf import shelf
from qsched_edge.errors import RecipeError, unknown_name
from qsched_edge.quantize.scheme import Scheme


@dataclass(frozen=True)
class Recipe:
    """One TOML of `export/`. Paths in it are relative to the file.

    `steps` are the step counts that get a schedule, the first is the default. `precision` gives a component other
    bits than asked for, `keep` maps glob patterns of weight names to bits.
    """

    name: str
    title: str
    source: str
    license: str
    steps: tuple[int, ...]
    guidance: float
    credits: str = ""
    group_size: int = 64
    precision: Mapping[str, int] = field(default_factory=dict)
    keep: Mapping[str, int] = field(default_factory=dict)
    prompts: str = ""
    heldout: str = ""
    scorer: str = ""
    quality_prompts: tuple[str, str] = ("Good photo.", "Bad photo.")
    evaluator: str = ""
    folder: Path = Path()

    def path(self, relative: str) -> Path:
        return (self.folder / relative).resolve()

    def scheme(self, component: str, weight: str, bits: int, method: str) -> Scheme:
        """The scheme of one weight when the model is exported at `bits`; a recipe only ever raises them."""
        wanted = max(bits, self.precision.get(component, bits))
        for pattern, kept in self.keep.items():
            if fnmatch(f"{component}.{weight}", pattern):
                wanted = max(wanted, kept)
        return Scheme(wanted, self.group_size, method=method)


@dataclass(frozen=True)
class ModelSpec:
    """A recipe with the diffusers folder it stands for and that folder's model_index.json."""

    recipe: Recipe
    folder: Path
    index: Mapping[str, Any]

    @property
    def pipeline(self) -> str:
        return str(self.index["_class_name"])

    def config(self, component: str) -> dict[str, Any]:
        """The component's own configuration, its class name among the keys (`_class_name`)."""
        for name in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
            path = self.folder / component / name
            if path.is_file():
                return {"_class_name": self.index[component][1], **read_json(path)}
        raise RecipeError(f"{self.folder / component} has no configuration: the diffusers folder is incomplete")


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read ({error}): the folder is damaged") from error


def recipe_names() -> dict[str, Path]:
    return {path.stem: path for path in sorted(shelf("export").glob("*.toml"))}


def read_recipe(path: Path) -> Recipe:
    """Parse one TOML; an unknown or missing key is an error that names it."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from error
    known = {f.name for f in fields(Recipe)} - {"folder", "name"}
    for key in table:
        if key not in known:
            raise RecipeError(f"recipe {path}: {unknown_name('key', key, known)}")
    missing = {"title", "source", "license", "steps", "guidance"} - set(table)
    if missing:
        raise RecipeError(f"recipe {path} lacks {', '.join(sorted(missing))}")
    for key in ("steps", "quality_prompts"):
        if key in table:
            table[key] = tuple(table[key])
    return Recipe(name=path.stem, folder=path.parent.resolve(), **table)


def resolve(model: str) -> ModelSpec:
    """`model` is a recipe's name, a recipe file or a diffusers folder."""
    named = recipe_names()
    if model in named:
        return spec(read_recipe(named[model]))
    path = Path(model)
    if path.suffix == ".toml" and path.is_file():
        return spec(read_recipe(path))
    if path.is_dir():
        return spec(folder_recipe(path))
    raise RecipeError(unknown_name("model", model, named) + "; or give a recipe file or a diffusers folder")


def folder_recipe(path: Path) -> Recipe:
    """What can be known of a folder without a recipe: its name; four steps, no guidance."""
    return Recipe(
        name=path.resolve().name,
        title=path.name,
        source=str(path.resolve()),
        license="unknown",
        steps=(4,),
        guidance=0.0,
    )


def spec(recipe: Recipe) -> ModelSpec:
    folder = recipe.path(recipe.source)
    if not folder.is_dir():
        raise RecipeError(
            f"{recipe.name}: {folder} does not exist; this model ships with the repository, not with the wheel"
        )
    index = folder / "model_index.json"
    if not index.is_file():
        raise RecipeError(f"{folder} is no diffusers folder: it has no model_index.json")
    return ModelSpec(recipe, folder, read_json(index))
