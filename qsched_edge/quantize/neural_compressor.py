"""Intel Neural Compressor 3.7's round-to-nearest, called tensor by tensor so that weights can stream."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from qsched_edge.errors import MissingExtraError
from qsched_edge.installed import install_command
from qsched_edge.precision import Scheme
from qsched_edge.quantize.integers import NORMAL, QuantizedMatrix, rounded_up
from qsched_edge.quantize.moments import Moments


@cache
def quant_tensor() -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """INC's tensor-level function; its package reads `onnx.mapping`, which onnx 1.19 dropped."""
    import onnx

    if not hasattr(onnx, "mapping"):
        from onnx import TensorProto, helper

        numpy_types = {t: helper.tensor_dtype_to_np_dtype(t) for t in TensorProto.DataType.values() if t not in (0, 8)}
        shim: Any = types.ModuleType("onnx.mapping")
        shim.TENSOR_TYPE_TO_NP_TYPE = numpy_types
        shim.NP_TYPE_TO_TENSOR_TYPE = {numpy_type: t for t, numpy_type in numpy_types.items()}
        sys.modules["onnx.mapping"] = shim
        vars(onnx)["mapping"] = shim
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from neural_compressor.adaptor.ox_utils import weight_only
    except ImportError as error:
        raise MissingExtraError(
            f"Intel Neural Compressor cannot be imported ({error}): it needs Python 3.10 to 3.12 and "
            f"{install_command('quantize')}"
        ) from error
    return weight_only.quant_tensor


def round_to_nearest(weight: np.ndarray, scheme: Scheme, moments: Moments | None = None) -> QuantizedMatrix:
    """float32 [N, K] -> integers, each group scaled from its own smallest to its own largest value.

    Every group gets a zero added before INC sees it: INC clamps the zero point to the integer range and would
    otherwise cut groups whose weights all share one sign.
    """
    rows, width = weight.shape
    g = scheme.group_for(width)
    blocks = -(-width // g)
    padded = np.zeros((rows, blocks * g), np.float32)
    padded[:, :width] = weight
    with_zero = np.concatenate([padded.reshape(-1, g), np.zeros((rows * blocks, 1), np.float32)], axis=1)
    q, scale, zero = quant_tensor()(
        with_zero, scheme.weight_bits, g + 1, "sym" if scheme.symmetric else "asym", dtype="uint"
    )
    half = scale.reshape(-1).astype(np.float16)  # infinite beyond its range, which `encode` refuses
    small = (scale.reshape(-1) < NORMAL).nonzero()[0]
    if small.size:
        half[small] = rounded_up(scale.reshape(-1)[small])
        q[small], zero[small] = on_scales(with_zero[small], half[small, None], scheme)
    return QuantizedMatrix(
        q[:, :g].astype(np.uint8).reshape(rows, -1)[:, :width],
        half.reshape(rows, blocks),
        zero.astype(np.uint8).reshape(rows, blocks),
        scheme.weight_bits,
        g,
    )


def on_scales(groups: np.ndarray, scale: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """The nearest integers of `groups` [G, g] and their zero points [G, 1] on float16 scales [G, 1].

    For scales that float16 holds with fewer digits than the integers need: those found with the exact scale would be
    off by whole steps.
    """
    steps, top = groups / scale.astype(np.float64), 2**scheme.weight_bits - 1
    middle = np.full((len(groups), 1), 2.0 ** (scheme.weight_bits - 1))
    zero = middle if scheme.symmetric else np.clip(np.rint(-steps.min(axis=1, keepdims=True)), 0, top)
    return np.clip(np.rint(steps) + zero, 0, top), zero
