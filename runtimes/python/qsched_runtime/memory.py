"""How much memory networks may take: modes by name, "auto" decided for each component, one network at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from qsched_runtime.errors import ProviderError

MODES = ("auto", "low", "fast", "sequential")
UNPACKED = 8  # float32 bytes for each stored byte, at 4 bits; more than others take
SHARE = 16  # "auto" unpacks what takes at most this part of the memory
UNKNOWN = 4 * 2**30  # bytes, where a system does not say


def check_mode(memory: str) -> None:
    if memory not in MODES:
        raise ProviderError(f"memory mode {memory!r} is unknown: use one of {', '.join(MODES)}")


def machine_bytes() -> int:
    """The machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN


def modes_of(sizes: Mapping[str, int], memory: str, limit: int | None = None) -> dict[str, str]:
    """For each component "low" or "fast", by the bytes of its files; `limit` stands for the machine's memory.

    "auto" takes the smallest first and unpacks each that the room left for that still holds.
    """
    check_mode(memory)
    if memory != "auto":
        return dict.fromkeys(sizes, "fast" if memory == "fast" else "low")
    room = (machine_bytes() if limit is None else limit) // SHARE
    found: dict[str, str] = {}
    for name in sorted(sizes, key=lambda n: sizes[n]):
        needed = UNPACKED * sizes[name]
        found[name] = "fast" if needed <= room else "low"
        room -= needed if needed <= room else 0
    return found


class OneAtATime(Mapping[str, Callable[..., Any]]):
    """Networks by name, each loaded when it is asked for; the one before it is given back first."""

    def __init__(self, loaders: Mapping[str, Callable[[], Callable[..., Any]]]) -> None:
        self.loaders = loaders
        self.current: tuple[str, Callable[..., Any]] | None = None

    def __getitem__(self, name: str) -> Callable[..., Any]:
        load = self.loaders[name]
        if self.current is None or self.current[0] != name:
            self.current = None  # before the next one is loaded
            self.current = name, load()
        return self.current[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaders)

    def __len__(self) -> int:
        return len(self.loaders)
