"""What the shipped recipes' models weigh: read from export/figures.json, which benchmarks/model_figures.py writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from qsched_edge._shelf import shelf
from qsched_edge.checkpoint.defaults import Traits, family_defaults
from qsched_edge.checkpoint.model import read_json
from qsched_edge.checkpoint.recipe_file import Recipe

UNKNOWN: dict[str, Any] = {"pipeline": "", "scheduler": "", "spacing": "", "embedded": False, "distilled": False}


@dataclass(frozen=True)
class Figures:
    """Of the networks in a bundle: parameters (of all, and of the backbone), bytes at 4 bits, bytes of memory to run.

    `ram_measured_at` is the side in pixels of the picture that a step's peak was measured with; 0: nobody has, and
    `ram_bytes` is what the largest network takes on disk, below which no step runs.
    """

    parameters: int
    backbone_parameters: int
    w4_bytes: int
    ram_bytes: int
    ram_measured_at: int


@cache
def published() -> dict[str, dict[str, Any]]:
    return read_json(shelf("export") / "figures.json")


def figures_of(recipe: Recipe) -> Figures | None:
    """None for an architecture whose configuration this project does not hold."""
    found = published().get(recipe.source)
    return Figures(**{name: found[name] for name in Figures.__dataclass_fields__}) if found else None


def steps_of(recipe: Recipe) -> tuple[int, ...]:
    """The recipe's step counts, or its family's; () where nothing but the checkpoint itself can tell."""
    found = published().get(recipe.source, UNKNOWN if recipe.scheduler else None)
    if recipe.steps or found is None:
        return recipe.steps
    spacing = recipe.scheduler_settings.get("timestep_spacing", found["spacing"])
    name = f"{recipe.name} {recipe.source} {recipe.single_file} {recipe.lora} {recipe.parts}"
    scheduler = recipe.scheduler or found["scheduler"]
    traits = Traits(found["pipeline"], scheduler, spacing, found["embedded"], name=name, distilled=found["distilled"])
    return family_defaults(traits).steps
