"""One weight -> the tensors that are stored for it, a few rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from qsched_edge.checkpoint.weights import WeightSource
from qsched_edge.errors import QuantizeError
from qsched_edge.precision import Scheme
from qsched_edge.quantize.integers import QuantizedMatrix, pack
from qsched_edge.quantize.layout import LAYOUTS, Layout
from qsched_edge.quantize.methods import method
from qsched_edge.quantize.moments import Moments
from qsched_edge.quantize.store import Packed
from qsched_edge.work.memory import LARGEST_CHUNK

SMALL = 1024  # weights with fewer values (norms, biases) stay float32: a Cast would cost what it saves


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
class Integers:
    """A whole weight in a layout: `q` as its encoder packs each piece, `scale` float16 and `zero` uint8 [N, blocks]."""

    q: np.ndarray
    scale: np.ndarray
    zero: np.ndarray


def quantized(rows: WeightRows, scheme: Scheme) -> Iterator[QuantizedMatrix]:
    """A few rows at a time; raises QuantizeError for values that need scales beyond float16's range."""
    for weight in rows:
        with np.errstate(over="ignore", invalid="ignore"):
            matrix = method(scheme.method)(weight, scheme, rows.moments)
        if not np.isfinite(matrix.scale).all():
            raise QuantizeError(f"{rows.name} is too large for float16 scales: keep it in 32 bits in the recipe")
        yield matrix


def integers(rows: WeightRows, layout: Layout, padded: bool) -> Integers:
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
    return Integers(np.concatenate(q), np.concatenate(scales), np.concatenate(zeros))


def encode_linear(rows: WeightRows, scheme: Scheme) -> list[Packed]:
    """MatMulNBits' own layout: blobs uint8 [N, blocks, g bits / 8], scales [N, blocks], zero points packed by rows.

    Symmetric weights have no zero points.
    """
    layout = LAYOUTS["linear"](scheme, rows.width)
    found = integers(rows, layout, padded=True)
    blobs = found.q.reshape(rows.shape[0], layout.blocks(rows.width), -1)
    parts = {"q": blobs, "scale": found.scale} | ({} if scheme.symmetric else {"zero": pack(found.zero, layout.bits)})
    return [Packed.of(f"{rows.name}_{role}", array) for role, array in parts.items()]


def encode_conv(rows: WeightRows, scheme: Scheme) -> list[Packed]:
    """For DequantizeLinear: in blocks, integers [O, I kh kw], scales and zero points [O, blocks] and Reshape's shape;
    by channel, integers of the weight's own shape, scales and zero points [O]."""
    layout = LAYOUTS["conv"](scheme, rows.width)
    found, dtype = integers(rows, layout, padded=False), f"UINT{layout.bits}"
    shape, grid = ((rows.shape[0], rows.width), found.scale.shape) if layout.block else (rows.shape, rows.shape[:1])
    stored = [
        Packed(f"{rows.name}_q", pack(found.q.reshape(-1), layout.bits), dtype, shape),
        Packed.of(f"{rows.name}_scale", found.scale.reshape(grid)),
        Packed(f"{rows.name}_zero", pack(found.zero.reshape(-1), layout.bits), dtype, grid),
    ]
    return [*stored, Packed.of(f"{rows.name}_shape", np.array(rows.shape, np.int64))] if layout.block else stored


def encode_embedding(rows: WeightRows, scheme: Scheme) -> list[Packed]:
    """For GatherBlockQuantized: uint8 [V, D bits / 8], scales [V, blocks], zero points packed by rows."""
    layout = LAYOUTS["embedding"](scheme, rows.width)
    found = integers(rows, layout, padded=False)
    arrays = {"q": pack(found.q, layout.bits), "scale": found.scale, "zero": pack(found.zero, layout.bits)}
    return [Packed.of(f"{rows.name}_{role}", array) for role, array in arrays.items()]


def encode_float(rows: WeightRows, scheme: Scheme) -> list[Packed]:
    """float16 for large weights of less than 32 bits, else float32."""
    dtype = np.float16 if float_bits(rows.shape, scheme) == 16 else np.float32
    with np.errstate(over="ignore"):
        array = np.concatenate([part.astype(dtype) for part in rows]).reshape(rows.shape)
    if not np.isfinite(array).all():
        raise QuantizeError(f"{rows.name} exceeds float16's range: keep it in 32 bits in the recipe")
    return [Packed.of(rows.name, array)]


def stored_bytes(kind: str, shape: tuple[int, ...], scheme: Scheme) -> int:
    """The bytes of what the kind's encoder returns for a weight of `shape` in a scheme of integers."""
    rows, width = shape[0], prod(shape[1:])
    layout = LAYOUTS[kind](scheme, width)
    blocks = layout.blocks(width)
    scales = 2 * rows * blocks
    if kind == "conv":  # packed as a whole, and the shape beside
        sizes = -(-rows * width * layout.bits // 8) - (-rows * blocks * layout.bits // 8)
        return sizes + scales + (8 * len(shape) if layout.block else 0)
    zeros = 0 if kind == "linear" and scheme.symmetric else -(-blocks * layout.bits // 8)
    values = (blocks * layout.block if kind == "linear" else width) * layout.bits
    return rows * (-(-values // 8) + zeros) + scales


def float_bits(shape: tuple[int, ...], scheme: Scheme) -> int:
    """What a weight that stays a float is stored in."""
    return 32 if scheme.weight_bits == 32 or prod(shape) < SMALL else 16


ENCODERS = {"linear": encode_linear, "conv": encode_conv, "embedding": encode_embedding, "other": encode_float}
