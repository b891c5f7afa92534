"""What an evaluation is asked to do, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

from qsched_edge import noise
from qsched_edge.errors import RequestError


@dataclass(frozen=True)
class EvaluationSettings:
    """`prompts` held-out prompts, each with `seeds` noises; `steps` of the bundle's schedules (None: its default)."""

    prompts: int = 64
    seeds: int = 3
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    steps: int | None = None

    def __post_init__(self) -> None:
        noise.check_seeds(self.seeds)
        noise.check_prompts("count", self.prompts)
        if self.prompts < 2:
            raise RequestError(f"{self.prompts} prompts x {self.seeds} seeds give no interval: use 2 prompts or more")
