"""Which prompts a model is observed with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qsched_edge.errors import QuantizeError
from qsched_edge.prompts import PromptSet, read_prompts

if TYPE_CHECKING:
    from qsched_edge.checkpoint.recipes import ModelSpec


@dataclass(frozen=True)
class ObservedPrompts:
    """`count` prompts of the file `prompts` (None: the recipe's) are drawn; 0 observes nothing."""

    prompts: Path | None = None
    count: int = 64

    def __post_init__(self) -> None:
        if self.count < 0:
            raise QuantizeError(f"--calib-count {self.count}: give 0 or more")

    def prompt_set(self, spec: ModelSpec) -> PromptSet:
        if self.prompts is None and not spec.recipe.prompts:
            raise QuantizeError(f"recipe {spec.recipe.name} names no prompts: give --calib-prompts FILE")
        return read_prompts(self.prompts or spec.recipe.path(spec.recipe.prompts))
