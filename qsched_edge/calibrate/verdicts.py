"""Held-out prompts decide: some choose among the proposals, the others say whether the chosen one ships.

The loss has been searched through and can be pleased by worse pictures. So what ships must gain on the loss and, by the
judges of the gate, which share nothing with it, gain on one measure at least and lose on none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.calibrate.pictures import Pictures
from qsched_edge.calibrate.results import Looked
from qsched_edge.calibrate.search import Proposal
from qsched_edge.errors import MetricError
from qsched_edge.intervals import Interval
from qsched_edge.jaq.distribution import AnyLoss
from qsched_edge.jaq.loss import Scores
from qsched_edge.jaq.panel import Panel, Resampled

DECIDERS = 8  # prompts: the bootstrap interval of fewer is too narrow to ship anything by, that of one has no width
BROKEN = Interval(-1e6, -1e6, -1e6)  # the gain of a proposal whose held-out pictures are not finite: none is as low


@dataclass(frozen=True)
class Gains:
    """What a proposal gains over the stock schedule on one set of prompts, with 95 % intervals: in the loss and in
    every measure of the gate, where above zero is better whichever way the measure goes. `together` has the gate's
    gains with the wider intervals that all of its measures hold at once."""

    loss: Interval
    gate: Mapping[str, Interval]
    together: Mapping[str, Interval]

    @property
    def lost(self) -> tuple[str, ...]:
        """The gate's measures whose whole interval lies below zero."""
        return tuple(name for name, gain in self.gate.items() if gain.high < 0)

    @property
    def won(self) -> tuple[str, ...]:
        """Those whose whole interval lies above, by the wider intervals: of several measures one gains by chance more
        often than each does."""
        return tuple(name for name, gain in self.together.items() if gain.low > 0)

    @property
    def passes(self) -> bool:
        """Does the gate let it through?"""
        return bool(self.won) and not self.lost


@dataclass(frozen=True)
class Verdict:
    """A proposal, its gains on the prompts that choose (None where there is one proposal only, and nothing to choose)
    and on those that decide, and its scores on the latter."""

    proposal: Proposal
    choosing: Gains | None
    deciding: Gains
    scores: Scores


def choose(verdicts: Sequence[Verdict], accept: str = "gate") -> Verdict:
    """The largest gain in the loss on the choosing prompts among those that the gate lets through there; among all if
    it lets none, or is not asked. The deciding prompts have no say in it, so their intervals stay honest."""

    def rank(verdict: Verdict) -> tuple[bool, float]:
        gains = verdict.choosing
        return (gains.passes or accept == "loss", gains.loss.estimate) if gains else (True, 0.0)

    return max(verdicts, key=rank)


def ships(chosen: Verdict, accept: str = "gate") -> bool:
    """Only if DECIDERS prompts or more decide, the gain in the loss lies above zero on them and the gate, unless
    `accept` is "loss", lets it through; the stock schedule ships otherwise."""
    gains = chosen.deciding
    return chosen.scores.count >= DECIDERS and gains.loss.low > 0 and (accept == "loss" or gains.passes)


def judge(
    stock: LearnedSchedule, proposals: Sequence[Proposal], sets: tuple[Pictures | None, Pictures], loss: AnyLoss,
    panel: Panel, seed: int,
) -> tuple[list[Verdict], Scores]:  # fmt: skip
    """Each proposal against the stock schedule on the prompts that choose, if any do, and on those that decide: same
    prompts and noise, paired. Also the stock schedule's scores on the latter."""
    choosing, deciding = sets
    first: Sequence[Gains | None] = [None] * len(proposals)
    if choosing is not None:
        first, _, _ = gains_of(stock, proposals, choosing, loss, panel, seed)
    second, scores, before = gains_of(stock, proposals, deciding, loss, panel, seed)
    return [Verdict(*row) for row in zip(proposals, first, second, scores, strict=True)], before


def gains_of(
    stock: LearnedSchedule, proposals: Sequence[Proposal], pictures: Pictures, loss: AnyLoss, panel: Panel, seed: int
) -> tuple[list[Gains], list[Scores], Scores]:
    before, *after = seen([stock, *(p.schedule for p in proposals)], pictures, panel)
    if not before.scores.finite:
        raise MetricError("a term of the loss at c = 1 is not finite: the pictures or what looks at them are broken")
    plain = gate_measures(before, pictures, panel)
    found = []
    for looked in after:
        if looked.scores.finite:
            measures = gate_measures(looked, pictures, panel)
            gate, together = panel.better(measures, plain), panel.better(measures, plain, together=True)
            found.append(Gains(loss.gain(looked.scores, before.scores, seed), gate, together))
        else:
            found.append(Gains(BROKEN, {}, {}))
    return found, [looked.scores for looked in after], before.scores


def seen(schedules: Sequence[LearnedSchedule], pictures: Pictures, panel: Panel) -> list[Looked]:
    """The pictures of each schedule, drawn once for the loss and for the judges of the gate, if any are asked."""
    if panel.judges:
        return [pictures.looks(schedule) for schedule in schedules]
    return [Looked(scores, {}, None) for scores, _ in pictures.scores(schedules)]


def gate_measures(looked: Looked, pictures: Pictures, panel: Panel) -> Resampled:
    """On the same resamples of the prompts for every schedule."""
    return panel.sampled(looked.looks, len(pictures.draws.prompts), looked.beside)
