"""One process at a time works on an output: it owns the staging folder or journal beside it, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qsched_edge.errors import RequestError


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Nobody else exports, calibrates, evaluates, ablates or quantizes to `output` meanwhile; raises RequestError at
    once if somebody does.

    The system gives the lock back when the process ends, however it ends.
    """
    from filelock import FileLock, Timeout

    path = output.with_name(f".{output.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RequestError(f"another process is at work on {output}: wait for it, or stop it") from error
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows keeps a file that is held; whoever waited on ours sees it is gone
            path.unlink(missing_ok=True)
        lock.release()


def check_free(output: Path) -> None:
    """RequestError if another process is at work on `output`."""
    if output.with_name(f".{output.name}.lock").exists():  # what a killed process left is free
        with locked(output):
            pass
