"""One progress bar, on stderr, that machines can switch off."""

from __future__ import annotations

import sys
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
