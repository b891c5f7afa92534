"""The record: where a bundle's coefficients come from and all that is needed to compute them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from qsched_edge.bundle.learned import coefficients_json
from qsched_edge.calibrate.search import Proposal
from qsched_edge.calibrate.searches.space import BIAS, HIGH, LOW
from qsched_edge.calibrate.verdicts import DECIDERS, Verdict, ships


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
        rows.append(f"shipped: {self.record['shipped']}: {self.record['sentence']}")
        rows += [f"  {name:9} {numbers(self.record[name])}" for name in COLUMNS if name in self.record]
        return "\n".join([*rows, *(f"warning: {w}" for w in self.record["warnings"])])


COLUMNS = ("timesteps", "c_z", "c_x", "c_eps", "bias")


def sentence(chosen: Verdict, accept: str) -> str:
    """Why the chosen proposal ships, or why the stock schedule does."""
    gains, name = chosen.deciding, chosen.proposal.search
    if ships(chosen, accept) and accept == "loss":
        return f"{name} gains on the loss; the judges of the gate were not asked"
    if ships(chosen, accept):
        return f"{name} gains on the loss and on {', '.join(gains.won)}, and is worse by no judge"
    if chosen.scores.count < DECIDERS:
        return f"{chosen.scores.count} prompts cannot decide"
    if gains.loss.low <= 0:
        return f"{name}, the best proposal, does not gain on the loss on held-out prompts"
    if gains.lost:
        return f"{name} gains on the loss and loses on {', '.join(gains.lost)}"
    return f"{name} gains on the loss and on no judge of the gate"


def numbers(column: Sequence[Any]) -> str:
    """One number for each step, or the channels' in brackets."""
    return " ".join(f"[{numbers(v)}]" if isinstance(v, list) else f"{v:.4f}" for v in column)


def candidate_json(verdict: Verdict, c_z: list[float]) -> dict[str, Any]:
    """One search: what it proposes, what it cost, how its best improved, what the held-out prompts say."""
    p = verdict.proposal
    return {
        "search": p.search,
        "timesteps": p.schedule.table.timesteps.tolist(),
        "c_z": c_z,
        **coefficients_json(p.schedule.coefficients),
        "fit": p.fit,
        "choosing_gain": asdict(verdict.choosing.loss) if verdict.choosing else None,
        "heldout_gain": asdict(verdict.deciding.loss),
        "gate": {name: asdict(gain) for name, gain in verdict.deciding.gate.items()},
        "won": list(verdict.deciding.won),
        "lost": list(verdict.deciding.lost),
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
