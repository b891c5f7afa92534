"""What quantization and calibration each do to every measure, and whether that is better, worse or cannot be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsched_edge.evaluate.contrasts import CELLS
from qsched_edge.evaluate.judging import TERMS_TOO

FULL, FULL_CALIBRATED, PLAIN, CALIBRATED = CELLS


@dataclass(frozen=True)
class Effect:
    """A change of one measure: the estimate and the ends of its 95 % interval in the measure's own units (None where
    one prompt gives none). `reading` is the measure's line in a report's "judges"."""

    measure: str
    reading: Mapping[str, Any]
    estimate: float
    low: float | None
    high: float | None

    @property
    def gain(self) -> tuple[float, float | None, float | None]:
        """The same with its sign such that more is better, lowest end first."""
        if self.reading["more_is_better"]:
            return self.estimate, self.low, self.high
        return 0.0 - self.estimate, negated(self.high), negated(self.low)

    @property
    def verdict(self) -> int:
        """1 is better, -1 worse, 0 cannot be told: the interval holds zero, or there is none."""
        _, low, high = self.gain
        if low is None or high is None:
            return 0
        return int(low > 0) - int(high < 0)

    @property
    def strength(self) -> float:
        """How far from zero it is, in units of the longer half of its interval."""
        half = max(abs(end - self.estimate) for end in (self.low, self.high) if end is not None)
        return abs(self.estimate) / half if half else float(bool(self.estimate)) * 1e9

    @property
    def text(self) -> str:
        """As a sentence has it: +0.13, 95 % interval +0.05 to +0.20."""
        form = self.reading["signed"].format
        ends = "" if self.low is None else f", 95 % interval {form(self.low)} to {form(self.high)}"
        return f"“{self.reading['label']}” ({form(self.estimate)}{ends})"

    @property
    def judge(self) -> str:
        """ "loss" where the loss sees it too, "nearness" to full precision's own pictures, else "report"."""
        if self.reading["judge"] == TERMS_TOO:
            return "loss"
        return "nearness" if self.reading["beside"] else "report"


def negated(value: float | None) -> float | None:
    return None if value is None else 0.0 - value  # no "-0.0"


def of_calibration(report: Mapping[str, Any]) -> list[Effect]:
    """The quantized network with the schedule that ships, less with the stock schedule."""
    return effects(report, report["calibration_gains"]["quantized"])


def of_quantization(report: Mapping[str, Any]) -> list[Effect]:
    """The quantized network less full precision, both with the stock schedule."""
    turned = {
        name: {"estimate": 0.0 - d["estimate"], "low": negated(d["high"]), "high": negated(d["low"])}
        for name, d in report["differences"][FULL].items()
    }
    return effects(report, turned)


def effects(report: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> list[Effect]:
    return [
        Effect(name, reading, **changes[name])
        for name, reading in report["judges"]["measures"].items()
        if name in changes
    ]


def told(found: Sequence[Effect], verdict: int, judge: str = "report") -> list[Effect]:
    """Those of one kind of judge with that verdict, the clearest first."""
    chosen = [e for e in found if e.judge == judge and e.verdict == verdict]
    return sorted(chosen, key=lambda e: -e.strength)


def is_calibrated(report: Mapping[str, Any]) -> bool:
    """Whether what ships differs from the stock schedule."""
    record = report["calibration"]
    return bool(record) and record["shipped"] != "identity"
