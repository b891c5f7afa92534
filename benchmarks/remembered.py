"""Tracing is what takes long in a small export: one architecture is traced once for all exports that share a folder.

`python -m benchmarks.remembered FOLDER COMMAND ...` is `qsched-edge COMMAND ...` with the graphs of FOLDER.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qsched_edge.capture import stored
from qsched_edge.capture.graph import Captured
from qsched_edge.export import graphs
from qsched_edge.pipelines import ComponentPlan


@contextmanager
def captures_remembered(folder: Path | None = None) -> Iterator[None]:
    """Within it, exports take their graphs from `folder`, which processes may share (default: one of this process)."""
    from filelock import FileLock

    capture = graphs.captured_of
    with ExitStack() as stack:
        known = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        known.mkdir(parents=True, exist_ok=True)

        def recalled(plan: ComponentPlan) -> Captured:
            place = known / key_of(plan)
            with FileLock(f"{place}.lock"):
                if not place.exists():
                    partial = Path(tempfile.mkdtemp(dir=known))
                    stored.save(capture(plan), partial)
                    os.replace(partial, place)
            return stored.load(place)

        graphs.captured_of = recalled
        try:
            yield
        finally:
            graphs.captured_of = capture


def key_of(plan: ComponentPlan) -> str:
    """A graph follows from the function that captures it and the configuration it is given."""
    asked = repr((plan.capture.func.__qualname__, plan.capture.args))  # type: ignore[attr-defined]
    return hashlib.sha256(asked.encode()).hexdigest()


if __name__ == "__main__":
    from qsched_edge.__main__ import main

    folder = Path(sys.argv.pop(1))
    with captures_remembered(folder):
        main()
