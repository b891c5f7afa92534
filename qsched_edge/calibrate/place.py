"""Where a network runs."""

from __future__ import annotations

from dataclasses import dataclass

from qsched_edge.calibrate.registries import MEMORY_MODES, PROVIDERS
from qsched_edge.errors import RequestError, unknown_name


@dataclass(frozen=True)
class Place:
    """`device` is torch's name; `providers` are onnxruntime's for the processor, in order of preference; `memory` "low"
    keeps 4-bit convolutions packed, "fast" unpacks them once; `threads` None is onnxruntime's own choice."""

    device: str = "cpu"
    providers: tuple[str, ...] = (PROVIDERS["cpu"],)
    memory: str = "low"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.device not in PROVIDERS:
            raise RequestError(unknown_name("device", self.device, PROVIDERS))
        if self.memory not in MEMORY_MODES:
            raise RequestError(unknown_name("memory", self.memory, MEMORY_MODES))
