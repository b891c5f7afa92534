"""What a quantized weight is: bits, groups, symmetry; and the exact meaning of the numbers that are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsched_edge.errors import QuantizeError

FLOAT_BITS = (16, 32)
INTEGER_BITS = (4, 8)
GROUP_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Scheme:
    """`weight_bits` 4 or 8 (integers in groups of at most `group_size` inputs), 16 or 32 (floats)."""

    weight_bits: int = 4
    group_size: int = 64
    symmetric: bool = False
    method: str = "rtn"

    def __post_init__(self) -> None:
        if self.weight_bits not in INTEGER_BITS + FLOAT_BITS:
            raise QuantizeError(f"weight_bits {self.weight_bits}: use one of {(*INTEGER_BITS, *FLOAT_BITS)}")
        if self.group_size not in GROUP_SIZES:
            raise QuantizeError(f"group_size {self.group_size}: use one of {GROUP_SIZES}")

    @property
    def name(self) -> str:
        """As the field writes it: W4A16, W8A16, FP16, FP32."""
        return f"W{self.weight_bits}A16" if self.is_integer else f"FP{self.weight_bits}"

    @property
    def is_integer(self) -> bool:
        return self.weight_bits in INTEGER_BITS

    def group_for(self, width: int) -> int:
        """The group size up to `group_size` that stores rows of `width` weights in the fewest bytes."""
        candidates = [g for g in GROUP_SIZES if g <= self.group_size]
        return min(
            reversed(candidates), key=lambda g: -(-width // g) * (g * self.weight_bits / 8 + 2 + self.weight_bits / 8)
        )


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


def pack(q: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [..., n] of `bits` each -> uint8 [..., ceil(n bits / 8)], the first value in the low bits."""
    if bits == 8:
        return q
    if q.shape[-1] % 2:
        q = np.concatenate([q, np.zeros_like(q[..., :1])], axis=-1)
    return q[..., ::2] | q[..., 1::2] << 4


def unpack(packed: np.ndarray, bits: int, n: int) -> np.ndarray:
    """The inverse of `pack` for rows of `n` values."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)[..., :n]
