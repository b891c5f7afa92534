"""One job after another, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qsched_edge.calibrate.engines import Cluster
from qsched_edge.calibrate.jobs import Job, Setup, Worker
from qsched_edge.calibrate.results import Done, Result


class Local:
    """A single worker."""

    workers = 1

    def __init__(self, setup: Setup, cluster: Cluster) -> None:
        self.worker = Worker(setup)

    def run(self, jobs: Sequence[Job]) -> Iterator[Done[Result]]:
        return map(self.worker.do, jobs)

    def close(self) -> None:
        """Nothing to give back."""
