"""The rows of an ablation: which searches are compared, and the question that each group of them answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qsched_edge.ablate.settings import COLUMNS, COUNTS, EQUAL_PASSES, GROUPS, LOSS
from qsched_edge.calibrate.registries import SEARCHES
from qsched_edge.jaq.terms import compares, losses

PROMPTS = (2, 4, 8, 16)  # fitting prompts of the rows that ask how many are needed


@dataclass(frozen=True)
class Row:
    """One search of the ablation: `group` is the question it answers, `moves` which of (c_x, c_eps) a gradient may
    change, `count` how many fitting prompts it sees (None: all)."""

    group: str
    name: str
    search: str
    loss: str = "jaq"
    moves: tuple[bool, bool] = (True, True)
    count: int | None = None


def rows_of(fit_prompts: int, groups: Sequence[str] = tuple(GROUPS), full: bool = False) -> list[Row]:
    """The grid first: what it takes is what every other search may take. A bundle in `full` precision is its own
    reference, so that rows which compare with one are left out."""
    counts = [*(n for n in PROMPTS if n < fit_prompts), fit_prompts]
    masks = (("c_x only", (True, False)), ("c_eps only", (False, True)), ("c_x and c_eps", (True, True)))
    rows = [
        *(Row(EQUAL_PASSES, name, name) for name in SEARCHES),
        *(Row(LOSS, loss, "gradient", loss) for loss in losses()),
        *(Row(COLUMNS, name, "gradient", moves=moves) for name, moves in masks),
        *(Row(COUNTS, str(n), "gradient", count=n) for n in counts),
    ]
    compared = [r for r in rows if compares(r.loss) or r.search == "closed"] if full else []
    return [r for r in rows if r.group in {GROUPS[name] for name in groups} and r not in compared]
