"""Jobs spread over a Ray cluster: one actor for each worker, results in the order of the jobs.

Ray starts an actor that died again and repeats what it was doing, so a killed worker costs time and nothing else.
Every actor computes batches exactly as one process does, and reductions happen here, in one order: the coefficients are
the same to the bit on like machines. An actor remembers network outputs of its own jobs only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from qsched_edge.calibrate.engines import Cluster
from qsched_edge.calibrate.jobs import Job, Setup, Worker
from qsched_edge.calibrate.results import Done, Result
from qsched_edge.errors import MissingExtraError, QSchedError
from qsched_edge.installed import install_command

RESTARTS = 4  # of one worker; a machine that loses it more often is broken


class Ray:
    """Joins the cluster at `cluster.address`, or starts one on this machine and stops it in `close`."""

    def __init__(self, setup: Setup, cluster: Cluster) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingExtraError(f"--engine ray needs ray: {install_command('ray')}") from error
        self.ray, self.workers = ray, cluster.workers
        self.started = not ray.is_initialized()
        if self.started:
            options = {"address": cluster.address} if cluster.address else {"num_cpus": cluster.workers}
            try:
                ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False, **options)
            except (ConnectionError, ValueError) as error:
                raise QSchedError(f"no Ray cluster at {cluster.address!r}: {str(error).splitlines()[0]}") from error
        actor: Any = ray.remote(num_cpus=1, max_restarts=RESTARTS, max_task_retries=RESTARTS)(Worker)
        self.actors: list[Any] = [actor.remote(setup) for _ in range(cluster.workers)]

    def run(self, jobs: Sequence[Job]) -> Iterator[Done[Result]]:
        """All jobs are handed out at once, in turn; a job that raises raises here."""
        pending = [actor.do.remote(job) for job, actor in zip(jobs, cycle(self.actors), strict=False)]
        for reference in pending:
            yield self._result(reference)

    def _result(self, reference: Any) -> Done[Result]:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self.ray.exceptions.RayActorError as error:
            raise QSchedError(f"a Ray worker died {RESTARTS + 1} times: look at its machine ({error})") from error

    def close(self) -> None:
        for actor in self.actors:
            self.ray.kill(actor)
        if self.started:
            self.ray.shutdown()
