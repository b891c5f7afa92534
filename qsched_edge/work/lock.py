"""One calibration of a bundle at a time: it owns the bundle's journal and what stands in its qsched.json."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qsched_edge.errors import RequestError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else calibrates the bundle at `folder` meanwhile; raises RequestError at once if somebody does.

    The system gives the lock back when the process ends, however it ends.
    """
    from filelock import FileLock, Timeout

    path = folder.with_name(f".{folder.name}.calibration.lock")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RequestError(f"{folder} is being calibrated by another process: wait for it, or stop it") from error
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows keeps a file that is held; whoever waited on ours sees it is gone
            path.unlink(missing_ok=True)
        lock.release()
