"""Weights as integers with scales and zero points: the exact meaning of the numbers that are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NORMAL, SMALLEST = 2.0**-14, 2.0**-24  # float16's smallest normal and subnormal numbers


@dataclass(frozen=True)
class QuantizedMatrix:
    """Weights [N, K] as integers: w = (q - zero) scale.

    q uint8 [N, K]; scale float16 [N, blocks]; zero uint8 [N, blocks]; block j covers columns j g .. (j+1) g - 1.
    """

    q: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    bits: int
    group_size: int

    def dequantize(self) -> np.ndarray:
        """float32 [N, K]."""
        columns = np.arange(self.q.shape[1]) // self.group_size
        return (self.q.astype(np.float32) - self.zero[:, columns]) * self.scale.astype(np.float32)[:, columns]


def rounded_up(scale: np.ndarray) -> np.ndarray:
    """Scales that are subnormal in float16 as the next number that it holds, so that no value is cut off."""
    return np.where(scale < NORMAL, np.ceil(scale / SMALLEST) * SMALLEST, scale).astype(scale.dtype)


def pack(q: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [..., n] of `bits` (2, 4 or 8) each -> uint8 [..., ceil(n bits / 8)], the first value in the low bits."""
    if bits == 8:
        return q
    values = 8 // bits
    q = np.concatenate([q, np.zeros((*q.shape[:-1], -q.shape[-1] % values), np.uint8)], axis=-1)
    packed = q[..., ::values].copy()
    for i in range(1, values):
        packed |= q[..., i::values] << (i * bits)
    return packed


def unpack(packed: np.ndarray, bits: int, n: int) -> np.ndarray:
    """The inverse of `pack` for rows of `n` values."""
    parts = [packed >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)[..., :n]
