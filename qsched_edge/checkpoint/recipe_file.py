"""A recipe: one TOML of `export/` or of the user's, read and held to its types."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, MinLen

from qsched_edge._shelf import shelf
from qsched_edge.errors import QuantizeError, RecipeError, unknown_name
from qsched_edge.precision import Scheme
from qsched_edge.work.staging import not_json

SHIPPED = "shipped:"  # before the name of a prompt set
BASE, VARIANTS = "base", "variants"  # keys of the file, not of what it says
PATHS = (
    "source", "single_file", "parts", "lora", "textual_inversion", "tiny_decoder", "prompts", "heldout", "scorer",
    "hps", "evaluator", "references", "fit_references",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """The keys are explained in export/README.md. Paths are relative to the file.

    What a key's default leaves open (`steps` (), `guidance` None, ...) the model's family says, unless `inherit` is
    False.
    """

    __pydantic_config__: ClassVar[Mapping[str, bool]] = {"strict": True, "allow_inf_nan": False}  # for `typed`

    name: str
    source: str
    title: str = ""
    license: str = "unknown"
    steps: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = ()
    guidance: Annotated[float, Ge(0)] | None = None
    inherit: bool = True
    credits: str = ""
    single_file: str = ""
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
    textual_inversion: tuple[str, ...] = ()
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
    loss: str = ""
    fit_references: str = ""
    fit: tuple[str, ...] = ()
    gate: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    folder: Path = Path()

    def path(self, relative: str) -> Path:
        """A path beside the recipe; "shipped:general" is the prompt set of that name in calib_prompts/."""
        if relative.startswith(SHIPPED):
            return prompt_set_file(relative.removeprefix(SHIPPED))
        return (self.folder / relative).resolve()

    def scheme(self, component: str, weight: str, bits: int, method: str, activation_bits: int = 16) -> Scheme:
        """The scheme of one weight when the model is exported at `bits`: what `layers` says, where it says anything;
        else `precision` and `keep` only ever raise the bits."""
        wanted = self.layers.get(f"{component}.{weight}")
        if wanted is None:
            kept = [more for pattern, more in self.keep.items() if fnmatch(f"{component}.{weight}", pattern)]
            wanted = max([bits, self.precision.get(component, bits), *kept])
        return Scheme(wanted, self.group_size, self.symmetric, method, activation_bits)


def prompt_set_file(name: str) -> Path:
    known = {path.stem: path for path in shelf("calib_prompts").glob("*.txt")}
    if name not in known:
        raise RecipeError(unknown_name("shipped prompt set", name, known))
    return known[name].resolve()


@cache
def recipe_names() -> dict[str, Path]:
    """The shipped recipes: name -> file, which may hold several that differ in few keys (`variants`)."""
    found: dict[str, Path] = {}
    for path in sorted(shelf("export").glob("*.toml")):
        found |= dict.fromkeys((path.stem, *read_toml(path, "recipe").get(VARIANTS, {})), path)
    return found


@cache
def shipped_recipes() -> dict[str, Recipe]:
    return {name: read_recipe(path, name) for name, path in recipe_names().items()}


def read_recipe(path: Path, name: str = "") -> Recipe:
    """Parse one TOML, or the variant `name` in it; a key that is unknown, missing or of another type or range is an
    error that names it."""
    name = name or path.stem
    table = {"title": name, **table_of(path, name)}
    known = {f.name for f in fields(Recipe)} - {"folder", "name"}
    for key in table:
        if key not in known:
            raise RecipeError(f"recipe {path}: {unknown_name('key', key, {*known, VARIANTS, BASE})}")
    if "source" not in table:
        raise RecipeError(f"recipe {path} lacks source: name a diffusers folder or a hub id, or a base")
    recipe = typed(Recipe, {**table, "name": name, "folder": str(path.parent.resolve())}, f"recipe {path}")
    if not recipe.inherit and (recipe.guidance is None or not recipe.steps):
        raise RecipeError(f"recipe {path} inherits nothing: it must say steps and guidance")
    place = not_json(recipe.scheduler_settings)
    if place is not None:
        raise RecipeError(f"recipe {path}: scheduler_settings{place} is not a finite number: leave it out or write one")
    widths = (recipe.bits, *recipe.precision.values(), *recipe.keep.values(), *recipe.layers.values())
    check_widths(widths, recipe.group_size, f"recipe {path}")
    return recipe


def table_of(path: Path, name: str) -> dict[str, Any]:
    """The keys of `path` over those of its base, with those of the variant `name` over both."""
    table = read_toml(path, "recipe")
    variants, base = table.pop(VARIANTS, {}), table.pop(BASE, "")
    if not isinstance(variants, dict) or not all(isinstance(keys, dict) for keys in variants.values()):
        raise RecipeError(f"recipe {path}: variants = {variants!r}: write tables, [variants.NAME]")
    if base:
        shipped = recipe_names()
        if base not in shipped:
            raise RecipeError(f"recipe {path}: {unknown_name('base', str(base), shipped)}")
        table = {**anchored(table_of(shipped[base], base), shipped[base].parent), **table}
    return {**table, **variants.get(name, {})}


def anchored(table: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same keys with the paths that exist in `folder` as absolute ones."""
    return {key: at(value, folder) if key in PATHS else value for key, value in table.items()}


def at(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {name: at(path, folder) for name, path in value.items()}
    if isinstance(value, (list, tuple)):
        return [f"{before}{at(file, folder)}" for before, file in map(word_and_file, value)]
    found = folder / str(value)
    return str(found.resolve()) if value and found.exists() else value


def word_and_file(text: str) -> tuple[str, str]:
    """WORD=FILE -> ("WORD=", FILE), FILE -> ("", FILE); what stands before a "=" in a path is no word."""
    word, sign, file = text.partition("=")
    return (word + sign, file) if sign and not {"/", "\\"} & set(word) else ("", text)


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
        for bits in (*widths, Recipe.bits):
            Scheme(bits, group_size)
    except QuantizeError as error:
        raise RecipeError(f"{where}: {error}") from error


def typed(kind: Any, value: Any, where: str) -> Any:
    """`value`, as TOML holds it, held to the type `kind`; raises RecipeError for the first thing that is not."""
    from pydantic import ValidationError

    try:
        # by way of JSON: that is where pydantic's strict mode lets an array be a tuple; a date of TOML fits no type
        return reader_of(kind).validate_json(json.dumps(value, default=lambda date: [str(date)]), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{where}: {name} = {first['input']!r}: {first['msg']}") from error


@cache
def reader_of(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_toml(path: Path, what: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{what} {path} cannot be read: {error}") from error
