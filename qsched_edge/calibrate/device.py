"""Where calibration computes: onnxruntime's provider and torch's device in one choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qsched_runtime import Sampler

from qsched_edge.errors import RequestError, unknown_name

DEVICES = ("cpu", "cuda")


def open_sampler(folder: Path, device: str, providers: Sequence[str], threads: int | None) -> Sampler:
    """The bundle's sampler."""
    return Sampler.from_pretrained(folder, providers=providers, threads=threads)


def check_device(device: str) -> None:
    """Raises RequestError for a name that is not one of DEVICES."""
    if device not in DEVICES:
        raise RequestError(unknown_name("device", device, DEVICES))
