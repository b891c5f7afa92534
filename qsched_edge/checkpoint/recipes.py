"""A recipe name, a recipe file or a diffusers folder -> ModelSpec: which checkpoint, how sampled and quantized."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, MinLen

from qsched_edge._shelf import shelf
from qsched_edge.checkpoint import hub, stock
from qsched_edge.checkpoint.schedule import stock_config
from qsched_edge.errors import QuantizeError, RecipeError, unknown_name
from qsched_edge.precision import Scheme
from qsched_edge.work.staging import not_json


@dataclass(frozen=True)
class Recipe:
    """One TOML of `export/`; the keys are explained in export/README.md. Paths are relative to the file."""

    __pydantic_config__: ClassVar[Mapping[str, bool]] = {"strict": True, "allow_inf_nan": False}  # for `typed`

    name: str
    title: str
    source: str
    license: str
    steps: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]
    guidance: Annotated[float, Ge(0)]
    credits: str = ""
    revision: str = ""
    variant: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    height: Annotated[int, Ge(0)] = 0
    width: Annotated[int, Ge(0)] = 0
    sequence_length: Annotated[int, Ge(0)] = 0
    scheduler: str = ""
    scheduler_settings: Mapping[str, Any] = field(default_factory=dict)
    eta: Annotated[float, Ge(0)] = 0.0
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
    text_image: str = ""
    quality: str = ""
    quality_prompts: tuple[str, str] = ("Good photo.", "Bad photo.")
    hps: str = ""
    evaluator: str = ""
    references: str = ""
    fit: tuple[str, ...] = ()
    gate: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    folder: Path = Path()

    def path(self, relative: str) -> Path:
        return (self.folder / relative).resolve()

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

    def class_of(self, component: str) -> str:
        """The component's class, as model_index.json names it."""
        match self.index.get(component):
            case [_, str() as name]:
                return name
            case other:
                raise RecipeError(f"{self.folder}: its model_index.json names no {component} (it says {other!r})")

    def config(self, component: str) -> dict[str, Any]:
        """A model's configuration, with all its class's defaults and the class's name (`_class_name`)."""
        return self.read_config(self.part(component), self.class_of(component))

    def written_by(self, component: str) -> tuple[int, ...]:
        """The diffusers version that wrote the configuration: (0, 6, 0); (1,) where it does not say."""
        version = required_json(self.part(component) / "config.json").get("_diffusers_version", "1")
        return tuple(int(number) for number in re.findall(r"\d+", str(version))[:3])

    def part(self, component: str) -> Path:
        """The component's folder: the pipeline's own, or the one the recipe puts in its place."""
        other = self.recipe.parts.get(component)
        return self.locate(other) if other else self.folder / component

    @staticmethod
    def read_config(folder: Path, class_name: str) -> dict[str, Any]:
        return {**stock.with_defaults(class_name, required_json(folder / "config.json")), "_class_name": class_name}

    def scheduler_config(self) -> dict[str, Any]:
        """The scheduler's configuration, as the stock pipeline loads it and the recipe overrides it."""
        recipe, file = self.recipe, self.part("scheduler") / "scheduler_config.json"
        config = {**required_json(file), "_class_name": self.class_of("scheduler")}
        return stock_config(self.pipeline, config, recipe.scheduler, recipe.scheduler_settings)

    def locate(self, source: str) -> Path:
        """A folder or file that the recipe names: a path beside it, or a repository of the model hub."""
        return locate(self.recipe, source)

    def lora_file(self) -> Path | None:
        """The recipe's LoRA, if it has one; RecipeError for a folder or a repository in a file's place."""
        named = self.recipe.lora
        if not named:
            return None
        path, repository = self.recipe.path(named), hub.hub_id(named)
        if path.is_dir() or (not path.exists() and repository and not repository.file):
            raise RecipeError(f"{self.recipe.name}: lora {named!r} is a folder: name the safetensors file in it")
        return self.locate(named)


def required_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"{path.parent} has no {path.name}: the diffusers folder is incomplete")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read ({error}): the folder is damaged") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{path} holds a {type(found).__name__}, not an object: the folder is damaged")
    return found


def recipe_names() -> dict[str, Path]:
    return {path.stem: path for path in sorted(shelf("export").glob("*.toml"))}


def read_recipe(path: Path) -> Recipe:
    """Parse one TOML; a key that is unknown, missing or of another type or range is an error that names it."""
    table = read_toml(path, "recipe")
    known = {f.name for f in fields(Recipe)} - {"folder", "name"}
    for key in table:
        if key not in known:
            raise RecipeError(f"recipe {path}: {unknown_name('key', key, known)}")
    missing = {"title", "source", "license", "steps", "guidance"} - set(table)
    if missing:
        raise RecipeError(f"recipe {path} lacks {', '.join(sorted(missing))}")
    recipe = typed(Recipe, {**table, "name": path.stem, "folder": str(path.parent.resolve())}, f"recipe {path}")
    place = not_json(recipe.scheduler_settings)
    if place is not None:
        raise RecipeError(f"recipe {path}: scheduler_settings{place} is not a finite number: leave it out or write one")
    widths = (recipe.bits, *recipe.precision.values(), *recipe.keep.values(), *recipe.layers.values())
    check_widths(widths, recipe.group_size, f"recipe {path}")
    return recipe


def read_layers(path: Path) -> dict[str, int]:
    """The table `layers` of a precision map: "component.weight" -> bits."""
    table = read_toml(path, "precision map")
    if set(table) != {"layers"}:
        raise RecipeError(f"precision map {path} must hold one table, [layers]; it has {', '.join(table) or 'none'}")
    layers = typed(dict[str, int], table["layers"], f"precision map {path}")
    check_widths(layers.values(), Recipe.group_size, f"precision map {path}")
    return layers


def check_widths(widths: Iterable[int], group_size: int, where: str) -> None:
    try:
        for bits in widths:
            Scheme(bits, group_size)
    except QuantizeError as error:
        raise RecipeError(f"{where}: {error}") from error


def typed(kind: Any, value: Any, where: str) -> Any:
    """`value`, as TOML holds it, held to the type `kind`; raises RecipeError for the first thing that is not."""
    from pydantic import TypeAdapter, ValidationError

    try:
        # by way of JSON: that is where pydantic's strict mode lets an array be a tuple; a date of TOML fits no type
        return TypeAdapter(kind).validate_json(json.dumps(value, default=lambda date: [str(date)]), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{where}: {name} = {first['input']!r}: {first['msg']}") from error


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
    """`model` is a recipe's name, a recipe file, a diffusers folder or a hub repository (OWNER/NAME[@REVISION])."""
    named = recipe_names()
    path = Path(model)
    if model in named:
        return spec(read_recipe(named[model]))
    if path.suffix == ".toml" and path.is_file():
        return spec(read_recipe(path))
    if path.is_dir():
        return spec(plain_recipe(path.resolve().name, str(path.resolve())))
    if known := hub.hub_id(model):
        return spec(plain_recipe(known.name, model))
    raise RecipeError(unknown_name("model", model, named) + "; or give a recipe file, a diffusers folder or OWNER/NAME")


def plain_recipe(name: str, source: str) -> Recipe:
    """What can be said of a model without a recipe: four steps, no guidance."""
    return Recipe(name=name, title=name, source=source, license="unknown", steps=(4,), guidance=0.0)


def spec(recipe: Recipe) -> ModelSpec:
    folder = locate(recipe, recipe.source)
    index = folder / "model_index.json"
    if not index.is_file():
        raise RecipeError(f"{folder} is no diffusers folder: it has no model_index.json")
    found = read_json(index)
    if not isinstance(found.get("_class_name"), str):
        raise RecipeError(f"{index} names no pipeline class (_class_name): the folder is damaged")
    return ModelSpec(recipe, folder, found)


def locate(recipe: Recipe, source: str) -> Path:
    """A path relative to the recipe where there is one; else a hub repository, or a file in one.

    A repository has the revision it is named with (OWNER/NAME@REVISION); the recipe's `revision` is its source's."""
    path = recipe.path(source)
    if path.exists():
        return path
    known = hub.hub_id(source)
    if known is None:
        embedded = source == recipe.source and recipe.folder == shelf("export").resolve()
        raise RecipeError(
            f"{recipe.name}: {path} does not exist"
            + (
                "; the embedded model ships with the repository, not with the wheel"
                if embedded
                else f", and {source!r} is no hub id (OWNER/NAME[@REVISION][/FILE])"
            )
        )
    if source == recipe.source and recipe.revision:
        if known.revision not in ("", recipe.revision):
            raise RecipeError(f"{recipe.name}: source names revision {known.revision} and revision {recipe.revision}")
        known = replace(known, revision=recipe.revision)
    return hub.fetch(known, recipe.variant, whole=source != recipe.source)
