"""Progress on stderr, which machines can switch off: a bar, and a word where something silent takes its time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(title: str, total: int | None, unit: str, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Yields `advance(n)`; `total` (None: not known) and `n` count `unit`s.

    A bar that is not on a terminal prints its end only.
    """
    from tqdm import tqdm

    shown = tqdm(
        total=total, desc=title, unit=unit, unit_scale=True, file=sys.stderr, disable=quiet,
        mininterval=0.2 if sys.stderr.isatty() else 30.0, dynamic_ncols=True,
    )  # fmt: skip
    with shown:

        def advance(n: int) -> None:
            shown.update(n)

        yield advance


PATIENCE = 2.0  # seconds that nobody wonders about


@contextmanager
def saying(what: str, quiet: bool = False, patience: float = PATIENCE) -> Iterator[None]:
    """Around work without a bar: if it takes longer than `patience` seconds, one line says what is being done."""
    timer = threading.Timer(patience, print, (f"{what} ...",), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    if not quiet:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
