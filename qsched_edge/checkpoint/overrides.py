"""What the command line says of a model in its recipe's place."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qsched_edge.checkpoint.recipe_file import Recipe, check_widths, typed, word_and_file


@dataclass(frozen=True)
class Overrides:
    """Keys of a recipe; None: the recipe's own. `lora` and `textual_inversion` are paths from here, or hub ids."""

    steps: tuple[int, ...] | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    scheduler: str | None = None
    lora: str | None = None
    lora_scale: float | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    textual_inversion: tuple[str, ...] | None = None
    base: str | None = None  # of a single file: the model that has what it lacks

    def over(self, recipe: Recipe) -> Recipe:
        """`recipe` with these keys; raises RecipeError for a value that no recipe may hold."""
        named = (f.name for f in fields(self) if f.name != "base")
        said = {name: value for name in named if (value := getattr(self, name)) is not None}
        if not said:
            return recipe
        if self.lora:
            said["lora"] = from_here(self.lora)
        if self.textual_inversion:
            said["textual_inversion"] = [w + from_here(file) for w, file in map(word_and_file, self.textual_inversion)]
        found: Recipe = typed(Recipe, {**as_table(recipe), **said}, "options")
        check_widths((), found.group_size, "options")
        return found


def from_here(name: str) -> str:
    """A path that exists, as an absolute one; a hub id as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def as_table(recipe: Recipe) -> dict[str, Any]:
    """All keys that differ from their defaults, as JSON has them."""
    values = {f.name: value for f in fields(recipe) if (value := getattr(recipe, f.name)) not in (f.default, {})}
    return dict(json.loads(json.dumps(values, default=str)))
