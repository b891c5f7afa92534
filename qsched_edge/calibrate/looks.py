"""What the gate's judges say of pictures: asked of a worker, remembered as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsched_edge.checkpoint.recipes import Recipe
from qsched_edge.jaq.judges import Look
from qsched_edge.jaq.panel import Panel, located, panel_of
from qsched_edge.jaq.settings import JudgeSource


@dataclass(frozen=True)
class GateJudges:
    """The names of the judges that decide, the recipe whose paths they are, and the prompts they are asked about."""

    names: tuple[str, ...]
    recipe: Recipe
    prompts: tuple[str, ...]

    def panel(self, device: str) -> Panel:
        references = located(self.recipe, self.recipe.references)
        return panel_of(self.names, self.recipe, JudgeSource(device=device, references=references), self.prompts)


def looks_json(looks: Mapping[str, Look]) -> dict[str, Any]:
    return {name: {"values": lists(look.values), "features": listed(look.features)} for name, look in looks.items()}


def lists(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in values.items()}


def listed(features: np.ndarray | None) -> list[Any] | None:
    return None if features is None else features.tolist()


def looks_of(stored: Mapping[str, Any]) -> dict[str, Look]:
    """The inverse of `looks_json`."""
    return {name: Look(arrays(look["values"]), array(look["features"])) for name, look in stored.items()}


def arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float64) for name, value in values.items()}


def array(features: list[Any] | None) -> np.ndarray | None:
    return None if features is None else np.array(features, np.float32)
