"""What a calibration may choose: the schedule's table and its coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from qsched_runtime import Coefficients, ScheduleTable
from qsched_runtime.manifest import table_of
from qsched_runtime.schedule import FoldedSchedule

from qsched_edge.checkpoint.schedule import table_to_json


@dataclass(frozen=True)
class LearnedSchedule:
    """`table` is the stock scheduler's, or its table at other timesteps or with other noise; `coefficients` fit it."""

    table: ScheduleTable
    coefficients: Coefficients

    @classmethod
    def stock(cls, table: ScheduleTable) -> LearnedSchedule:
        """Nothing learned: all coefficients are one."""
        return cls(table, Coefficients.identity(len(table)))

    def __len__(self) -> int:
        return len(self.table)

    def folded(self) -> FoldedSchedule:
        return self.table.folded(self.coefficients)

    def json(self) -> dict[str, Any]:
        """The table's columns, then c_x, c_eps and, unless it is zero, the bias: [steps] or [steps, channels] each."""
        return {**table_to_json(self.table), **coefficients_json(self.coefficients)}

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> LearnedSchedule:
        """The inverse of `json`; what else is stored is left aside."""
        return cls(table_of(stored), Coefficients(stored["c_x"], stored["c_eps"], stored.get("bias")))


def coefficients_json(coefficients: Coefficients) -> dict[str, Any]:
    """c_x, c_eps and, unless it is zero, the bias: [steps] or [steps, channels] each."""
    found = {"c_x": coefficients.c_x.tolist(), "c_eps": coefficients.c_eps.tolist()}
    bias = np.asarray(coefficients.bias)
    return {**found, "bias": bias.tolist()} if bias.any() else found
