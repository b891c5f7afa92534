"""What quantizing a graph is asked to do, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qsched_edge.errors import QuantizeError
from qsched_edge.precision import Scheme
from qsched_edge.quantize.methods import method_named
from qsched_edge.work.memory import RamLimit


@dataclass(frozen=True)
class QuantizeSettings:
    """`inputs` is an .npz of arrays by input name, or None for random ones drawn with `seed`."""

    scheme: Scheme = field(default_factory=Scheme)
    inputs: Path | None = None
    seed: int = 0
    ram: RamLimit = field(default_factory=RamLimit)

    def __post_init__(self) -> None:
        if not method_named(self.scheme.method).blind:
            raise QuantizeError(f"method {self.scheme.method} observes a model's sampler: use mse or rtn for a graph")
        if self.seed < 0:
            raise QuantizeError(f"--seed {self.seed}: give 0 or more")
