"""The components' graphs without weights, traced once and kept in the staging folder until the bundle is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qsched_edge.capture import stored
from qsched_edge.capture.graph import Captured
from qsched_edge.pipelines import ComponentPlan
from qsched_edge.work import progress
from qsched_edge.work.staging import Staging


def graph_part(component: str) -> str:
    """The part of the staging folder that holds a component's graph."""
    return f"{component}.graph"


@dataclass(frozen=True)
class Graphs:
    """What was traced for the export of `staging`, the 32-bit one inside it included."""

    staging: Staging
    quiet: bool

    def of(self, plan: ComponentPlan) -> Captured:
        """Read anew each time: whoever writes a graph uses it up."""

        def trace(folder: Path) -> None:
            with progress.saying(f"tracing {plan.name}", self.quiet):
                stored.save(captured_of(plan), folder)

        return stored.load(self.staging.part(graph_part(plan.name), trace))


def captured_of(plan: ComponentPlan) -> Captured:
    """Traced anew: the one call that benchmarks.remembered answers from what it has."""
    return plan.capture()
