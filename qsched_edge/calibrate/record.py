"""The record: where a bundle's coefficients come from and all that is needed to compute them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qsched_edge.bundle.learned import coefficients_json
from qsched_edge.calibrate.search import Proposal
from qsched_edge.calibrate.searches.space import BIAS, HIGH, LOW
from qsched_edge.calibrate.verdicts import Verdict


@dataclass(frozen=True)
class Result:
    """What calibrate decided; `record` is what went into the bundle's qsched.json."""

    record: dict[str, Any]

    def table(self) -> str:
        """As plain text: a row for each search, what shipped, what to beware of."""
        rows = [f"{'search':10} {'fit':>7}  {'held-out gain':>13}  {'95 % interval':18} {'passes':>8}"]
        for c in self.record["candidates"]:
            gain, low, high = (c["heldout_gain"][key] for key in ("estimate", "low", "high"))
            interval = f"[{low:+.3f}, {high:+.3f}]"
            rows.append(f"{c['search']:10} {c['fit']:+7.3f}  {gain:+13.3f}  {interval:18} {c['passes']:8,}")
        rows.append(f"shipped: {self.record['shipped']}")
        rows += [f"  {name:5} {numbers(self.record[name])}" for name in ("c_x", "c_eps", "bias") if name in self.record]
        return "\n".join([*rows, *(f"warning: {w}" for w in self.record["warnings"])])


def numbers(column: Sequence[Any]) -> str:
    """One number for each step, or the channels' in brackets."""
    return " ".join(f"[{numbers(v)}]" if isinstance(v, list) else f"{v:.4f}" for v in column)


def candidate_json(verdict: Verdict) -> dict[str, Any]:
    """One search: what it proposes, what it cost, how its best improved, what the held-out prompts say."""
    p = verdict.proposal
    return {
        "search": p.search,
        **coefficients_json(p.schedule.coefficients),
        "fit": p.fit,
        "choosing_gain": asdict(verdict.choosing) if verdict.choosing else None,
        "heldout_gain": asdict(verdict.deciding),
        "reference_gain": asdict(verdict.nearer[1]) if verdict.nearer[1] else None,
        **cost_json(p),
        "curve": [[point.passes, point.fit] for point in p.curve],
        "notes": p.notes,
    }


def cost_json(p: Proposal) -> dict[str, Any]:
    return {
        "passes": p.passes,
        "pictures": p.pictures,
        "budget_spent": p.spent,
        "not_finite": p.not_finite,
    }


BOUNDS = {"c_x": [LOW, HIGH], "c_eps": [LOW, HIGH], "bias": [-BIAS, BIAS]}
