"""Tracing is what takes long in a small export: one architecture is captured once, each export gets a copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qsched_edge.capture.graph import Captured
from qsched_edge.export import job as stage
from qsched_edge.pipelines.layout import ComponentPlan


@contextmanager
def captures_remembered() -> Iterator[None]:
    """Within it, exports of one process share their captures; they stay in memory, so large models are not for it."""
    remembered: dict[str, Captured] = {}
    capture = stage.captured_of

    def recalled(plan: ComponentPlan) -> Captured:
        key = repr((plan.capture.func.__qualname__, plan.capture.args))  # type: ignore[attr-defined]
        known = remembered[key] = remembered.get(key) or capture(plan)
        return known.copy()

    stage.captured_of = recalled
    try:
        yield
    finally:
        stage.captured_of = capture
