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

BROKEN = -1e6  # the loss of proposals whose held-out pictures are not finite: no other is as low


@dataclass(frozen=True)
class Verdict:
    """A proposal's gain in loss over c = 1 with its 95 % interval: on the prompts that choose (None where there is one
    proposal only, and nothing to choose), and on those that decide."""

    proposal: Proposal
    choosing: Interval | None
    deciding: Interval
    scores: Scores  # on the deciding prompts


def choose(verdicts: Sequence[Verdict]) -> Verdict:
    """The largest gain on the choosing prompts: the deciding ones have no say in it, so their interval stays honest."""
    return max(verdicts, key=lambda v: v.choosing.estimate if v.choosing else 0.0)


def ships(chosen: Verdict) -> bool:
    """Only if the interval on the deciding prompts lies above zero; identity ships otherwise."""
    return chosen.deciding.low > 0


def judge(
    proposals: Sequence[Proposal], choosing: Pictures | None, deciding: Pictures, loss: Loss, seed: int
) -> tuple[list[Verdict], Scores]:
    """Each proposal against identity, same prompts and noise, paired; and identity's scores on the deciding prompts."""
    if choosing is None:
        first: list[Interval | None] = [None] * len(proposals)
    else:
        first = list(gains(proposals, choosing, loss, seed)[0])
    second, scores, before = gains(proposals, deciding, loss, seed)
    verdicts = [Verdict(*row) for row in zip(proposals, first, second, scores, strict=True)]
    return verdicts, before


def gains(
    proposals: Sequence[Proposal], pictures: Pictures, loss: Loss, seed: int
) -> tuple[list[Interval], list[Scores], Scores]:
    identity = Coefficients.identity(len(proposals[0].coefficients.c_x))
    before, *after = [s for s, _ in pictures.scores([identity, *(p.coefficients for p in proposals)])]
    if not before.finite:
        raise MetricError("a JAQ term at c = 1 is not finite: the pictures or the scorer are broken")
    worst = np.full(len(before.quality), BROKEN)
    losses = [loss.of(s) if s.finite else worst for s in after]
    return [paired_difference(a, loss.of(before), seed) for a in losses], after, before
