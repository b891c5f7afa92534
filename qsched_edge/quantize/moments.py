"""What calibrated methods know of a layer: the second moments of its inputs on the sampler's trajectory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """`hessian` float32 [K, K] is E[x x^T] over all inputs x of the layer (columns of im2col for a convolution)."""

    hessian: np.ndarray
