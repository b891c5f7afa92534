"""What the command line says of a model in its recipe's place."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qsched_edge.checkpoint.recipe_file import Recipe, check_widths, typed


@dataclass(frozen=True)
class Overrides:
    """Keys of a recipe; None: the recipe's own. `lora` is a path from here, or a hub id."""

    steps: tuple[int, ...] | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    scheduler: str | None = None
    lora: str | None = None
    lora_scale: float | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    base: str | None = None  # of a single file: the model that has what it lacks

    def over(self, recipe: Recipe) -> Recipe:
        """`recipe` with these keys; raises RecipeError for a value that no recipe may hold."""
        named = (f.name for f in fields(self) if f.name != "base")
        said = {name: value for name in named if (value := getattr(self, name)) is not None}
        if not said:
            return recipe
        if self.lora and Path(self.lora).exists():
            said["lora"] = str(Path(self.lora).resolve())
        found: Recipe = typed(Recipe, {**as_table(recipe), **said}, "options")
        check_widths((), found.group_size, "options")
        return found


def as_table(recipe: Recipe) -> dict[str, Any]:
    """All keys that differ from their defaults, as JSON has them."""
    values = {f.name: value for f in fields(recipe) if (value := getattr(recipe, f.name)) not in (f.default, {})}
    return dict(json.loads(json.dumps(values, default=str)))
