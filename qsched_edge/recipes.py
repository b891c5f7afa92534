"""A recipe name, a recipe file or a diffusers folder -> ModelSpec: which checkpoint, how sampled and quantized."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from qsched_edge._shelf import shelf
from qsched_edge.errors import RecipeError, unknown_name
from qsched_edge.quantize.scheme import Scheme

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w./-]+)?")


@dataclass(frozen=True)
class Recipe:
    """One TOML of `export/`; the keys are explained in export/README.md. Paths are relative to the file."""

    name: str
    title: str
    source: str
    license: str
    steps: tuple[int, ...]
    guidance: float
    credits: str = ""
    revision: str = "main"
    variant: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    height: int = 0
    width: int = 0
    sequence_length: int = 77
    scheduler: str = ""
    scheduler_settings: Mapping[str, Any] = field(default_factory=dict)
    eta: float = 0.0
    lora: str = ""
    lora_scale: float = 1.0
    tiny_decoder: str = ""
    bits: int = 4
    method: str = "rtn"
    group_size: int = 64
    symmetric: bool = False
    precision: Mapping[str, int] = field(default_factory=dict)
    keep: Mapping[str, int] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    prompts: str = ""
    heldout: str = ""
    scorer: str = ""
    text_image: str = "clip"
    quality: str = "clip-iqa"
    quality_prompts: tuple[str, str] = ("Good photo.", "Bad photo.")
    hps: str = ""
    evaluator: str = ""
    folder: Path = Path()

    def path(self, relative: str) -> Path:
        return (self.folder / relative).resolve()

    def overridden(self, scheduler: Mapping[str, Any]) -> dict[str, Any]:
        """A stock scheduler's configuration with the recipe's class and settings."""
        chosen = self.scheduler or scheduler["_class_name"]
        return {**scheduler, "_class_name": chosen, **self.scheduler_settings}

    def scheme(self, component: str, weight: str, bits: int, method: str, activation_bits: int = 16) -> Scheme:
        """The scheme of one weight when the model is exported at `bits`: what `layers` says, where it says anything;
        else `precision` and `keep` only ever raise the bits."""
        wanted = self.layers.get(f"{component}.{weight}")
        if wanted is None:
            kept = [more for pattern, more in self.keep.items() if fnmatch(f"{component}.{weight}", pattern)]
            wanted = max([bits, self.precision.get(component, bits), *kept])
        return Scheme(wanted, self.group_size, self.symmetric, method, activation_bits)


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
        return {**self.read_config(self.part(component)), "_class_name": self.index[component][1]}

    def part(self, component: str) -> Path:
        """The component's folder: the pipeline's own, or the one the recipe puts in its place."""
        other = self.recipe.parts.get(component)
        return self.locate(other) if other else self.folder / component

    @staticmethod
    def read_config(folder: Path) -> dict[str, Any]:
        for name in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                return read_json(folder / name)
        raise RecipeError(f"{folder} has no configuration: the diffusers folder is incomplete")

    def scheduler_config(self) -> dict[str, Any]:
        """The stock scheduler's configuration, as the recipe overrides it."""
        return self.recipe.overridden(self.config("scheduler"))

    def locate(self, source: str) -> Path:
        """A folder or file that the recipe names: a path beside it, or a repository of the model hub."""
        return locate(self.recipe, source)


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read ({error}): the folder is damaged") from error


def recipe_names() -> dict[str, Path]:
    return {path.stem: path for path in sorted(shelf("export").glob("*.toml"))}


def read_recipe(path: Path) -> Recipe:
    """Parse one TOML; an unknown or missing key is an error that names it."""
    table = read_toml(path, "recipe")
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


def read_layers(path: Path) -> dict[str, int]:
    """The table `layers` of a precision map: "component.weight" -> bits."""
    table = read_toml(path, "precision map")
    if set(table) != {"layers"} or not isinstance(table["layers"], dict):
        raise RecipeError(f"precision map {path} must hold one table, [layers]; it has {', '.join(table) or 'none'}")
    for name, bits in table["layers"].items():
        if not isinstance(bits, int):
            raise RecipeError(f"precision map {path}: {name} = {bits!r} is no number of bits")
    return dict(table["layers"])


def read_toml(path: Path, what: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{what} {path} cannot be read: {error}") from error


def resolve(model: str) -> ModelSpec:
    """`model` is a recipe's name, a recipe file, a diffusers folder or the id of a hub repository (OWNER/NAME)."""
    named = recipe_names()
    path = Path(model)
    if model in named:
        return spec(read_recipe(named[model]))
    if path.suffix == ".toml" and path.is_file():
        return spec(read_recipe(path))
    if path.is_dir():
        return spec(plain_recipe(path.resolve().name, str(path.resolve())))
    if HUB_ID.fullmatch(model):
        return spec(plain_recipe(model.split("/")[1], model))
    raise RecipeError(unknown_name("model", model, named) + "; or give a recipe file, a diffusers folder or OWNER/NAME")


def plain_recipe(name: str, source: str) -> Recipe:
    """What can be said of a model without a recipe: four steps, no guidance."""
    return Recipe(name=name, title=name, source=source, license="unknown", steps=(4,), guidance=0.0)


def spec(recipe: Recipe) -> ModelSpec:
    folder = locate(recipe, recipe.source)
    index = folder / "model_index.json"
    if not index.is_file():
        raise RecipeError(f"{folder} is no diffusers folder: it has no model_index.json")
    return ModelSpec(recipe, folder, read_json(index))


def locate(recipe: Recipe, source: str) -> Path:
    """A path relative to the recipe where there is one; else a hub repository, or a file in one (OWNER/NAME/FILE)."""
    path = recipe.path(source)
    if path.exists():
        return path
    if source.startswith((".", "/")) or not HUB_ID.match(source):
        raise RecipeError(
            f"{recipe.name}: {path} does not exist; the embedded model ships with the repository, not with the wheel"
        )
    from qsched_edge.hub import fetch

    return fetch(source, recipe.revision, recipe.variant, whole=source != recipe.source)
