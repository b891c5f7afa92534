"""One weight -> the tensors that are stored for it, a few rows in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from qsched_edge.errors import QuantizeError
from qsched_edge.memory import LARGEST_CHUNK
from qsched_edge.quantize.methods import method
from qsched_edge.quantize.moments import Moments
from qsched_edge.quantize.scheme import Scheme, pack
from qsched_edge.quantize.store import Packed
from qsched_edge.weights import Weights

SMALL = 1024  # weights with fewer values (norms, biases) stay float32: a Cast would cost what it saves


@dataclass(frozen=True)
class WeightRows:
    """A weight of `shape` read as a matrix [shape[0], rest], `chunk` values at a time."""

    weights: Weights
    name: str
    shape: tuple[int, ...]
    chunk: int = LARGEST_CHUNK
    moments: Moments | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        """float32 [rows, rest]; raises QuantizeError for values that are not finite."""
        width = prod(self.shape[1:])
        step = max(1, self.chunk // width)
        for start in range(0, self.shape[0], step):
            rows = self.weights.rows(self.name, start, min(start + step, self.shape[0]))
            if not np.isfinite(rows).all():
                raise QuantizeError(f"{self.name} holds values that are not finite: the checkpoint is damaged")
            yield rows.reshape(len(rows), width)


def encode_linear(rows: WeightRows, scheme: Scheme) -> list[Packed]:
    """MatMulNBits' own layout: blobs uint8 [N, blocks, g bits / 8], scales [N, blocks], zero points packed by rows."""
    width = rows.shape[1]
    g = scheme.group_for(width)
    blocks, blobs, scales, zeros = -(-width // g), [], [], []
    for weight in rows:
        matrix = method(scheme.method)(weight, scheme, rows.moments)
        padded = np.zeros((len(weight), blocks * g), np.uint8)
        padded[:, :width] = matrix.q
        blobs.append(pack(padded.reshape(len(weight), blocks, g), scheme.weight_bits))
        scales.append(matrix.scale)
        zeros.append(pack(matrix.zero, scheme.weight_bits))
    parts = {"q": blobs, "scale": scales, **({} if scheme.symmetric else {"zero": zeros})}
    return [Packed.of(f"{rows.name}_{role}", np.concatenate(arrays)) for role, arrays in parts.items()]


def encode_conv(rows: WeightRows, scheme: Scheme) -> list[Packed]:
    """Integers [O, I kh kw] for a blocked DequantizeLinear, scales and zero points [O, blocks], shape for Reshape."""
    width = prod(rows.shape[1:])
    q, scales, zeros = [], [], []
    for weight in rows:
        matrix = method(scheme.method)(weight, scheme, rows.moments)
        q.append(matrix.q)
        scales.append(matrix.scale)
        zeros.append(matrix.zero)
    bits, blocks = scheme.weight_bits, -(-width // scheme.group_for(width))
    dtype = f"UINT{bits}"
    return [
        Packed(f"{rows.name}_q", pack(np.concatenate(q).reshape(-1), bits), dtype, (rows.shape[0], width)),
        Packed.of(f"{rows.name}_scale", np.concatenate(scales)),
        Packed(f"{rows.name}_zero", pack(np.concatenate(zeros).reshape(-1), bits), dtype, (rows.shape[0], blocks)),
        Packed.of(f"{rows.name}_shape", np.array(rows.shape, np.int64)),
    ]


def encode_float(rows: WeightRows, scheme: Scheme) -> list[Packed]:
    """float16 for large weights of less than 32 bits, else float32."""
    wide = scheme.weight_bits == 32 or prod(rows.shape) < SMALL
    dtype = np.float32 if wide else np.float16
    with np.errstate(over="ignore"):
        array = np.concatenate([part.astype(dtype) for part in rows]).reshape(rows.shape)
    if not np.isfinite(array).all():
        raise QuantizeError(f"{rows.name} exceeds float16's range: keep it in 32 bits in the recipe")
    return [Packed.of(rows.name, array)]


ENCODERS = {"linear": encode_linear, "conv": encode_conv, "other": encode_float}
