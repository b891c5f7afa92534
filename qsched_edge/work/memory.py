"""How much memory the process has taken, and how large a piece of a weight may be."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from qsched_edge.errors import QuantizeError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
LARGEST_CHUNK = 2**22  # values; more brings no speed
BYTES_PER_VALUE = 64  # float32 copies, float64 quotients and integers of one value while it is quantized
SMALLEST_ROOM = 2**26


def parse_bytes(text: str) -> int:
    """`1500M` or `2G` -> bytes (powers of 1024); raises QuantizeError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise QuantizeError(f"size {text!r} is not understood: write 2G or 1500M")
    return int(float(match[1]) * UNITS[match[2].upper()])


def peak_bytes() -> int:
    """Peak resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage says on Linux also counts the process that started this one
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) * 1024  # type: ignore[index]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def current_bytes() -> int:
    """Resident set of this process now."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    kibibytes = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(kibibytes.stdout) * 1024


@dataclass(frozen=True)
class RamLimit:
    """`limit` bytes for the whole process, or None."""

    limit: int | None = None

    def chunk(self) -> int:
        """How many values to quantize at a time; raises QuantizeError when the limit leaves no room to work."""
        if self.limit is None:
            return LARGEST_CHUNK
        room = self.limit - peak_bytes()
        if room < SMALLEST_ROOM:
            raise QuantizeError(
                f"--max-ram {self.limit / 2**20:.0f}M leaves no room: the process has taken "
                f"{peak_bytes() / 2**20:.0f} MiB so far; give {(peak_bytes() + SMALLEST_ROOM) / 2**20:.0f}M or more"
            )
        return min(LARGEST_CHUNK, room // BYTES_PER_VALUE)

    def holds(self, needed: int) -> bool:
        """Is there room for `needed` bytes more, under the limit or else in the machine's memory?"""
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if self.limit is None else self.limit
        return peak_bytes() + needed <= whole
