"""What the user may choose of a model's parts at export."""

from __future__ import annotations

from dataclasses import dataclass

from qsched_edge.errors import RecipeError

DECODERS = ("full", "tiny")


@dataclass(frozen=True)
class Choices:
    """Picture-to-picture needs the `encoder`; `decoder` "full" or "tiny"."""

    encoder: bool = False
    decoder: str = "full"

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise RecipeError(f"decoder {self.decoder!r} is unknown: use full or tiny")
