"""Engines do jobs: in this process, or spread over a Ray cluster; the results are the same to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from qsched_edge.calibrate.jobs import Job
from qsched_edge.calibrate.results import Done, Result


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster (empty: one on this machine) and how many workers."""

    address: str = ""
    workers: int = 2


class Engine(Protocol):
    """`workers` jobs run at a time."""

    workers: int

    def run(self, jobs: Sequence[Job]) -> Iterator[Done[Result]]:
        """Each job's result, in the order of the jobs."""
        ...

    def close(self) -> None: ...
