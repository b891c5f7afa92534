"""Held-out prompts decide: some choose among the proposals, the others say whether the chosen one ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from qsched_runtime import Coefficients

from qsched_edge.calibrate.pictures import Pictures
from qsched_edge.calibrate.search import Proposal
from qsched_edge.errors import MetricError
from qsched_edge.intervals import Interval, paired_difference
from qsched_edge.jaq.loss import Loss, Scores

DECIDERS = 8  # prompts: the bootstrap interval of fewer is too narrow to ship anything by, that of one has no width
REFERENCE = "reference"  # the term that says whether pictures come nearer to full precision's
BROKEN = -1e6  # the loss of proposals whose held-out pictures are not finite: no other is as low


@dataclass(frozen=True)
class Verdict:
    """A proposal's gain in loss over c = 1 with its 95 % interval: on the prompts that choose (None where there is one
    proposal only, and nothing to choose), and on those that decide.

    `nearer` are the gains in the reference term on the same two sets, None where no full precision was drawn: above
    zero the pictures have come nearer to full precision's, below zero they have moved away.
    """

    proposal: Proposal
    choosing: Interval | None
    deciding: Interval
    scores: Scores  # on the deciding prompts
    nearer: tuple[Interval | None, Interval | None] = (None, None)

    @property
    def moves_away(self) -> bool:
        return away(self.nearer[1])


def away(nearer: Interval | None) -> bool:
    """Does the whole interval lie below zero?"""
    return nearer is not None and nearer.high < 0


def choose(verdicts: Sequence[Verdict]) -> Verdict:
    """The largest gain on the choosing prompts among those that do not move away from full precision there; among all
    if every one does. The deciding prompts have no say in it, so their interval stays honest."""
    return max(verdicts, key=lambda v: (not away(v.nearer[0]), v.choosing.estimate if v.choosing else 0.0))


def ships(chosen: Verdict) -> bool:
    """Only if DECIDERS prompts or more decide, the gain's interval on them lies above zero and the pictures do not move
    away from full precision's there; identity ships otherwise."""
    return chosen.scores.count >= DECIDERS and chosen.deciding.low > 0 and not chosen.moves_away


def judge(
    proposals: Sequence[Proposal], choosing: Pictures | None, deciding: Pictures, loss: Loss, seed: int
) -> tuple[list[Verdict], Scores]:
    """Each proposal against identity, same prompts and noise, paired; and identity's scores on the deciding prompts."""
    first: list[Interval | None] = [None] * len(proposals)
    first_nearer = first
    if choosing is not None:
        found, after, plain = gains(proposals, choosing, loss, seed)
        first, first_nearer = list(found), [nearer(scores, plain, seed) for scores in after]
    second, scores, before = gains(proposals, deciding, loss, seed)
    both = zip(first_nearer, (nearer(s, before, seed) for s in scores), strict=True)
    verdicts = [Verdict(*row) for row in zip(proposals, first, second, scores, both, strict=True)]
    return verdicts, before


def nearer(after: Scores, before: Scores, seed: int) -> Interval | None:
    """The paired gain in the reference term, None where it was not measured or is not finite."""
    if REFERENCE not in after.values or REFERENCE not in before.values or not after.finite:
        return None
    return paired_difference(after[REFERENCE], before[REFERENCE], seed)


def gains(
    proposals: Sequence[Proposal], pictures: Pictures, loss: Loss, seed: int
) -> tuple[list[Interval], list[Scores], Scores]:
    identity = Coefficients.identity(len(proposals[0].coefficients.c_x))
    before, *after = [s for s, _ in pictures.scores([identity, *(p.coefficients for p in proposals)])]
    if not before.finite:
        raise MetricError("a JAQ term at c = 1 is not finite: the pictures or the scorer are broken")
    worst = np.full(before.count, BROKEN)
    losses = [loss.of(s) if s.finite else worst for s in after]
    return [paired_difference(a, loss.of(before), seed) for a in losses], after, before
