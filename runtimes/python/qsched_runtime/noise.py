"""Normal noise equal to `torch.randn` on a CPU generator, in arithmetic that every IEEE 754 machine agrees on."""

from __future__ import annotations

import math

import numpy as np

ALGORITHM = "torch-cpu-mt19937"
SQRT_HALF = math.sqrt(0.5)
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10


class TorchNoise:
    """The stream of `torch.Generator("cpu").manual_seed(seed)`, as `torch.randn` draws from it.

    Only + - * / and sqrt of float64 are used, then one rounding to float32, so that the values do not
    depend on a math library. They differ from torch's own by a few units of the last place.
    """

    def __init__(self, seed: int) -> None:
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)

    def randn(self, shape: tuple[int, ...]) -> np.ndarray:
        """float32 array of `shape`, at least 16 values (torch draws fewer in another way)."""
        n = math.prod(shape)
        if n < 16:
            raise ValueError(f"randn needs at least 16 values, got shape {shape}")
        uniform = self._uniform(n)
        blocks = uniform[: n - n % 16].reshape(-1, 16)
        values = np.empty(n, np.float32)
        values[: blocks.size] = box_muller(blocks).ravel()
        if n % 16:  # torch draws the last 16 anew, overlapping what stands there
            values[-16:] = box_muller(self._uniform(16).reshape(1, 16)).ravel()
        return values.reshape(shape)

    def _uniform(self, n: int) -> np.ndarray:
        words = np.frombuffer(self._twister.bytes(4 * n), "<u4")
        return (words & 0xFFFFFF).astype(np.float64) * 2.0**-24


def box_muller(u: np.ndarray) -> np.ndarray:
    """Uniforms [n, 16] -> normals [n, 16]: columns j and j + 8 make one pair."""
    radius = np.sqrt(-2.0 * log(1.0 - u[:, :8]))
    cosine, sine = cos_sin_turns(u[:, 8:])
    return np.concatenate([radius * cosine, radius * sine], axis=1).astype(np.float32)


def log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of 2^-24 <= x <= 1: exact split into 2^e m, then the series of atanh in (m-1)/(m+1)."""
    m, e = np.frexp(x)
    low = m < SQRT_HALF
    m, e = np.where(low, 2.0 * m, m), e - low
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    series = np.full_like(s, 1.0 / 21.0)
    for k in range(19, 0, -2):
        series = series * square + 1.0 / k
    return e * LN2_HIGH + (e * LN2_LOW + 2.0 * s * series)


def cos_sin_turns(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cos, sin) of 2 pi u for 0 <= u < 1: exact reduction to an eighth of a turn, then Taylor series."""
    eighth = np.floor(u * 8.0 + 1.0).astype(np.int64) // 2 % 4  # nearest quarter turn
    angle = (u - np.floor(u * 4.0 + 0.5) / 4.0) * (2.0 * math.pi)
    square = angle * angle
    sine = taylor(square, 1) * angle
    cosine = taylor(square, 0)
    quarter = [(cosine, sine), (-sine, cosine), (-cosine, -sine), (sine, -cosine)]
    return tuple(np.choose(eighth, [pair[i] for pair in quarter]) for i in (0, 1))


def taylor(square: np.ndarray, first: int) -> np.ndarray:
    """1 - x^2/((first+1)(first+2)) + ... by Horner: the cosine for first = 0, sine / x for first = 1."""
    total = np.ones_like(square)
    for k in range(16 + first, first, -2):
        total = 1.0 - square / (k * (k - 1.0)) * total
    return total
