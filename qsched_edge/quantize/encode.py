"""One weight -> integers in an operator's layout, a few rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from qsched_edge.checkpoint.weights import WeightSource
from qsched_edge.errors import QuantizeError
from qsched_edge.precision import Scheme
from qsched_edge.quantize.integers import QuantizedMatrix, pack
from qsched_edge.quantize.layout import BlockLayout
from qsched_edge.quantize.methods import quantizer_of
from qsched_edge.quantize.moments import Moments
from qsched_edge.work.memory import LARGEST_CHUNK


@dataclass(frozen=True)
class WeightRows:
    """A weight of `shape` read as a matrix [shape[0], rest], `chunk` values at a time."""

    weights: WeightSource
    name: str
    shape: tuple[int, ...]
    chunk: int = LARGEST_CHUNK
    moments: Moments | None = None

    @property
    def width(self) -> int:
        return prod(self.shape[1:])

    def __iter__(self) -> Iterator[np.ndarray]:
        """float32 [rows, rest]; raises QuantizeError for values that are not finite."""
        step = max(1, self.chunk // self.width)
        for start in range(0, self.shape[0], step):
            rows = self.weights.rows(self.name, start, min(start + step, self.shape[0]))
            if not np.isfinite(rows).all():
                raise QuantizeError(f"{self.name} holds values that are not finite: the checkpoint is damaged")
            yield rows.reshape(len(rows), self.width)


@dataclass(frozen=True)
class LaidOut:
    """A whole weight in a layout: `q` as each piece is packed, `scale` float16 and `zero` uint8 [N, blocks]."""

    q: np.ndarray
    scale: np.ndarray
    zero: np.ndarray


def quantized(rows: WeightRows, scheme: Scheme) -> Iterator[QuantizedMatrix]:
    """A few rows at a time; raises QuantizeError for values that need scales beyond float16's range."""
    for weight in rows:
        with np.errstate(over="ignore", invalid="ignore"):
            matrix: QuantizedMatrix = quantizer_of(scheme.method)(weight, scheme, rows.moments)
        if not np.isfinite(matrix.scale).all():
            raise QuantizeError(f"{rows.name} is too large for float16 scales: keep it in 32 bits in the recipe")
        yield matrix


def laid_out(rows: WeightRows, layout: BlockLayout, padded: bool) -> LaidOut:
    """Quantize a few rows at a time; `padded` fills the last block of each row and packs rows, not the whole."""
    q, scales, zeros = [], [], []
    for matrix in quantized(rows, layout.scheme):
        shift, repeats = layout.shift if layout.scheme.symmetric else 0, layout.repeats(matrix)
        values = matrix.q + np.uint8(shift)
        if padded:
            room = layout.blocks(rows.width) * layout.block
            values = pack(np.pad(values, ((0, 0), (0, room - rows.width))), layout.bits)
        q.append(values)
        scales.append(np.repeat(matrix.scale, repeats, axis=1))
        zeros.append(np.repeat(matrix.zero + np.uint8(shift), repeats, axis=1))
    return LaidOut(np.concatenate(q), np.concatenate(scales), np.concatenate(zeros))
