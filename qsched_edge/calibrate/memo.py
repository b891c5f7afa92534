"""Network outputs that were computed before: the first step's never depend on the coefficients, later ones only on
the coefficients of the steps before them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

from qsched_runtime.schedule import FoldedSchedule

LIMIT = 512 * 2**20  # bytes of outputs kept: 128 FLUX pictures at 1024 x 1024 and 4 steps


class Memo:
    """A mapping that forgets what was not asked for longest once its values take more than `limit` bytes."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.held = limit, 0
        self.entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value, or None."""
        if key not in self.entries:
            return None
        self.entries.move_to_end(key)
        return self.entries[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """`key` must be new; `size` in bytes."""
        self.entries[key] = value, size
        self.held += size
        while self.held > self.limit:
            _, (_, freed) = self.entries.popitem(last=False)
            self.held -= freed


class Ledger:
    """What a series of candidates costs in network passes when outputs are remembered as `Memo` does.

    Searches are charged by it and not by the clockwork of one process, so that a resumed search, or one on several
    workers, spends exactly what an uninterrupted one does. `bytes_each` is the size of one picture's latents.
    """

    def __init__(self, bytes_each: int, limit: int = LIMIT) -> None:
        self.bytes_each, self.memo = bytes_each, Memo(limit)

    def charge(self, batch: int, pictures: int, schedule: FoldedSchedule) -> int:
        """Passes of one batch drawn with `schedule`; from now on its outputs are remembered."""
        return sum(self._new((batch, i, *prefix_of(schedule, i)), pictures) for i in range(len(schedule.table)))

    def _new(self, key: Sequence[Hashable], pictures: int) -> int:
        if self.memo.get(tuple(key)):
            return 0
        self.memo.put(tuple(key), True, pictures * self.bytes_each)
        return pictures


def prefix_of(schedule: FoldedSchedule, i: int) -> tuple[bytes, ...]:
    """All that the network's input at step i depends on beside prompt and noise."""
    steps, table = (schedule.a, schedule.b, schedule.bias, schedule.table.c), schedule.table
    inputs = (table.timesteps, table.c_in)
    return tuple(c[:i].tobytes() for c in steps) + tuple(c[i : i + 1].tobytes() for c in inputs)
