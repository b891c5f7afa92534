"""Concepts, styles, backgrounds and the captions made of them; which combinations training never sees."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

HERE = Path(__file__).parent
STYLES = {"twemoji": "twemoji", "noto": "noto", "fluent": "fluent-emoji-flat"}
BACKGROUNDS = {
    "white": (255, 255, 255),
    "gray": (184, 190, 198),
    "black": (34, 37, 43),
    "red": (229, 85, 90),
    "yellow": (255, 216, 92),
    "green": (108, 195, 110),
    "blue": (79, 143, 232),
    "purple": (155, 107, 214),
    "pink": (247, 168, 201),
}
UNSTATED = "unstated"  # a caption that names no background means a white one
HELD_OUT_SHARE = 10  # one combination in ten


@cache
def concepts() -> tuple[str, ...]:
    """Icon names, e.g. `red-apple`, in the order that numbers them."""
    lines = (HERE / "concepts.txt").read_text().splitlines()
    return tuple(name for line in lines if not line.startswith("#") for name in line.split())


@dataclass(frozen=True)
class Combination:
    """One concept in one style on one background: what a caption describes."""

    concept: str
    style: str
    background: str = UNSTATED

    @property
    def caption(self) -> str:
        name = self.concept.replace("-", " ")
        article = "an" if name[0] in "aeiou" else "a"
        place = "" if self.background == UNSTATED else f", on a {self.background} background"
        return f"{article} {name}, {self.style} style{place}"

    @property
    def color(self) -> tuple[int, int, int]:
        return BACKGROUNDS["white" if self.background == UNSTATED else self.background]

    @property
    def held_out(self) -> bool:
        """True for the tenth of the combinations with a stated background that no training run sees."""
        digest = hashlib.sha256(f"{self.concept}|{self.style}|{self.background}".encode()).digest()
        return self.background != UNSTATED and digest[0] % HELD_OUT_SHARE == 0


@cache
def combinations() -> tuple[Combination, ...]:
    """All concept x style x background combinations, backgrounds running fastest."""
    return tuple(Combination(*c) for c in product(concepts(), STYLES, (UNSTATED, *BACKGROUNDS)))
