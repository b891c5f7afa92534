"""What a user must hear about a result: coefficients on the box, broken pictures, scores that no longer tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qsched_edge.calibrate.search import Proposal
from qsched_edge.calibrate.searches.space import at_bounds
from qsched_edge.calibrate.verdicts import DECIDERS
from qsched_edge.jaq.loss import Scores
from qsched_edge.jaq.terms import picture_terms

SATURATED, SHARE = 0.01, 0.5  # within 1 % of a term's range from its end, for half of the pictures
COLLAPSED = 0.2  # of the deviation at c = 1


def warnings_of(proposal: Proposal) -> list[str]:
    """About the search itself."""
    found = []
    bounds = at_bounds(proposal.schedule.coefficients)
    if bounds:
        found.append(f"{proposal.search}: at its bound: {', '.join(bounds)}")
    if proposal.not_finite:
        found.append(f"{proposal.search}: {proposal.not_finite} candidates gave pictures that are not finite")
    if proposal.spent:
        found.append(f"{proposal.search}: the budget ended the search")
    return found


def shared(fit: Sequence[str], held: Sequence[str]) -> list[str]:
    """Held-out prompts that were fitted on."""
    known = set(fit)
    both = sum(prompt in known for prompt in held)
    return [f"{both} of the {len(held)} held-out prompts were fitted on as well, with other noise"] if both else []


def too_few(deciding: int) -> list[str]:
    """Prompts that cannot decide."""
    if deciding >= DECIDERS:
        return []
    return [
        f"the stock schedule ships: {deciding} prompts cannot decide, {DECIDERS} are the fewest; give more "
        f"--heldout-prompts (several searches share them, half decides)"
    ]


def saturation(name: str, values: np.ndarray, ends: tuple[float, float]) -> list[str]:
    """A term whose pictures lie at one end of its range cannot tell better from best."""
    lowest, highest = ends
    width = (highest - lowest) * SATURATED
    if not np.isfinite(width):
        return []
    for end, near in (("low", values < lowest + width), ("high", values > highest - width)):
        if near.mean() > SHARE:
            return [f"{name} is saturated: {near.mean():.0%} of the pictures lie at the {end} end of its range"]
    return []


def collapse(name: str, after: Scores, before: Scores) -> list[str]:
    """A term that hardly differs from picture to picture any more."""
    found = []
    for term in (name for name in picture_terms() if name in before.values):
        was, now = (float(s[term].std()) for s in (before, after))
        if now < COLLAPSED * was:
            found.append(f"{name}: {term} collapsed: its deviation over the pictures fell from {was:.3g} to {now:.3g}")
    return found
