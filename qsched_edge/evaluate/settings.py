"""What an evaluation is asked to do, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qsched_edge import noise
from qsched_edge.calibrate.place import Place
from qsched_edge.errors import RequestError


@dataclass(frozen=True)
class EvaluationSettings:
    """`prompts` held-out prompts, each with `seeds` noises (one prompt gives no interval); `steps` of the bundle's
    schedules (None: its default). `judges` and the folder of `references` replace the recipe's; judges that somebody
    named are fetched where they are not at hand, unless `offline`. `reference` is a 32-bit bundle of the same weights
    (None: the one beside, made where there is none)."""

    prompts: int = 64
    seeds: int = 3
    steps: int | None = None
    judges: tuple[str, ...] = ()
    references: str = ""
    offline: bool = False
    reference: Path | None = None
    place: Place = field(default_factory=Place)

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.seeds < 1:
            raise RequestError(f"{self.prompts} prompts x {self.seeds} seeds are no pictures: use 1 or more of each")
        noise.check_prompts("prompts", self.prompts)
        noise.check_noises("seeds", self.seeds)
