"""Prompts with the noise that each is drawn from, and the batches in which they are."""

from __future__ import annotations

from dataclasses import dataclass

PICTURES_AT_ONCE = 8


@dataclass(frozen=True)
class Draws:
    """Prompts and the seed of the first one's noise; the next ones count up."""

    prompts: tuple[str, ...]
    first_seed: int

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.first_seed, self.first_seed + len(self.prompts)))

    @property
    def batches(self) -> tuple[Draws, ...]:
        """What is drawn and scored at once, each a set of its own with the noise it has here."""
        starts = range(0, len(self.prompts), PICTURES_AT_ONCE)
        return tuple(Draws(self.prompts[i : i + PICTURES_AT_ONCE], self.first_seed + i) for i in starts)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Pictures in each batch."""
        return tuple(len(batch.prompts) for batch in self.batches)
