"""A search's budget: network passes, or minutes of computing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from qsched_edge.errors import RequestError

SECONDS = {"s": 1, "m": 60, "h": 3600}


class BudgetSpent(Exception):  # noqa: N818 (no error: a search ends here with what it has)
    """Raised inside a search when the next candidate would cost more than what is left."""


@dataclass(frozen=True)
class Budget:
    """Most network passes and most seconds that one search may take."""

    passes: float = math.inf
    seconds: float = math.inf

    @classmethod
    def parse(cls, text: str) -> Budget:
        """ "20000" is passes, "90s", "5m", "2h" is time, "" is no limit; raises RequestError for anything else."""
        if not text:
            return cls()
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
        if not found or float(found[1]) <= 0:
            raise RequestError(f"budget {text!r} is neither passes nor time: write 20000, or 90s, 5m, 2h")
        value, unit = float(found[1]), found[2]
        return cls(seconds=value * SECONDS[unit]) if unit else cls(passes=value)
