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


def shares_of_noise(schedule: LearnedSchedule, stock: ScheduleTable) -> np.ndarray:
    """c_z float64 [steps]: the fresh noise of each step as a share of what the stock scheduler draws at these
    timesteps, whose table `stock` is; 1 where it draws none."""
    return np.divide(schedule.table.c, stock.c, out=np.ones(len(stock)), where=stock.c != 0)


def distance(schedule: LearnedSchedule, stock: LearnedSchedule, there: ScheduleTable) -> float:
    """How far a schedule is from the stock one: the mean squares, over steps and channels, of the timesteps' moves in
    units of the first timestep, of c_z - 1, c_x - 1, c_eps - 1 and of the bias, added up. `there` is the stock
    scheduler's table at the schedule's timesteps."""
    own, was = schedule.table.timesteps, stock.table.timesteps
    c = schedule.coefficients
    moves = ((own - was) / was[0], shares_of_noise(schedule, there) - 1, c.c_x - 1, c.c_eps - 1, np.asarray(c.bias))
    return sum(float((move**2).mean()) for move in moves)


def coefficients_json(coefficients: Coefficients) -> dict[str, Any]:
    """c_x, c_eps and, unless it is zero, the bias: [steps] or [steps, channels] each."""
    found = {"c_x": coefficients.c_x.tolist(), "c_eps": coefficients.c_eps.tolist()}
    bias = np.asarray(coefficients.bias)
    return {**found, "bias": bias.tolist()} if bias.any() else found
