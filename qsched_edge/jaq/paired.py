"""How far pictures are from full precision's of the same prompts and the same noise: it needs no model at all.

Pictures are compared as people see them, in 8 bits. PSNR counts no error below that of rounding to 8 bits, so that
equal pictures have 58.9 dB and not infinity. SSIM (Wang et al. 2004) is as published: Gaussian windows of 11 pixels
with deviation 1.5, on each colour channel, averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qsched_edge.jaq.judges import Distance, Drawn, Look, Reading
from qsched_edge.jaq.settings import JudgeSource

FLOOR = 1 / (12 * 255**2)  # the mean squared error of rounding to 8 bits
DEVIATION, RADIUS = 1.5, 5
C1, C2 = 0.01**2, 0.03**2  # SSIM's constants for a range of one


class Paired:
    """`latent_error` is the mean squared difference of the last latents."""

    readings: Mapping[str, Reading] = {
        "psnr": Reading("PSNR to full precision, dB", "PSNR", True, "{:.2f}", "{:+.2f}", beside=True),
        "ssim": Reading("SSIM to full precision", "SSIM", beside=True),
        "latent_error": Reading("Squared error of the latents to full precision's", "latents", False, "{:.5f}",
                                "{:+.5f}", beside=True),
    }  # fmt: skip
    distances: Mapping[str, Distance] = {}
    files: frozenset[str] = frozenset()

    def look(self, drawn: Drawn) -> Look:
        beside = drawn.beside
        if beside is None:
            return Look({})
        a, b = (in_8_bits(d.images.astype(np.float64)) for d in (drawn, beside))
        values = {"psnr": psnr(a, b), "ssim": ssim(a, b)}
        if drawn.latents is not None and beside.latents is not None:
            values["latent_error"] = squared_error(drawn.latents, beside.latents)
        return Look(values)

    def check(self, prompts: Sequence[str]) -> None:
        """Any will do."""


def paired(source: JudgeSource) -> Paired:
    return Paired()


def in_8_bits(images: np.ndarray) -> np.ndarray:
    """Pictures in 0..1 as people see them, in the same type: full precision's are kept in 8 bits."""
    return np.round(images * 255) / 255


def squared_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean over all but the first axis, float64 [N]."""
    return ((a.astype(np.float64) - b) ** 2).reshape(len(a), -1).mean(axis=1)


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pictures [N, 3, H, W] in 0..1 -> decibels, float64 [N]."""
    return -10 * np.log10(np.maximum(squared_error(a, b), FLOOR))


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pictures [N, 3, H, W] in 0..1, 11 pixels or more a side -> float64 [N] in -1..1, by whole windows only."""
    mean_a, mean_b = windowed(a), windowed(b)
    products = mean_a * mean_b
    variance = windowed(a * a) - mean_a**2 + windowed(b * b) - mean_b**2
    covariance = windowed(a * b) - products
    similar = (2 * products + C1) * (2 * covariance + C2) / ((mean_a**2 + mean_b**2 + C1) * (variance + C2))
    return similar[..., RADIUS:-RADIUS, RADIUS:-RADIUS].reshape(len(a), -1).mean(axis=1)


def windowed(x: np.ndarray) -> np.ndarray:
    """The Gaussian mean around each pixel."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (0, 0, DEVIATION, DEVIATION), radius=(0, 0, RADIUS, RADIUS))
