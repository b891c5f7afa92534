"""Where a graph's layers read their inputs, and those inputs as the rows that multiply the weight."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from qsched_edge.quantize.layers.kind import Window
from qsched_edge.quantize.layers.readers import kind_of

ROWS = 2048  # inputs of a layer kept of one call; large pictures have more, which say little that is new


@dataclass(frozen=True)
class Tap:
    """The inputs of one or more layers: weights' names, the values they multiply, K, and the window of a Conv."""

    weights: tuple[str, ...]
    values: tuple[str, ...]
    width: int
    window: Window | None

    def rows(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """x, as the layer is given it, to float32 [rows, K]."""
        if self.window:
            return columns_of(x, self.window, rng)
        flat = x.reshape(-1, self.width)
        return flat[sample(len(flat), rng)]


def sample(count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of at most ROWS of `count` rows, sorted."""
    return np.arange(count) if count <= ROWS else np.sort(rng.choice(count, ROWS, replace=False))


def taps_of(graph: ir.Graph) -> list[Tap]:
    """One tap for each distinct input of the graph's layers that multiply it, in the order of the weights."""
    found: dict[tuple[tuple[str, ...], Window | None], tuple[list[str], int]] = {}
    for name, value in graph.initializers.items():
        kind = kind_of(value, graph)
        if not kind.multiplies or value.shape is None:
            continue
        values = tuple(dict.fromkeys(str(node.inputs[0].name) for node in kind.layers(value) if node.inputs[0]))
        names, _ = found.setdefault((values, kind.window(value)), ([], prod(value.shape.numpy()[1:])))
        names.append(name)
    return [Tap(tuple(names), values, width, window) for (values, window), (names, width) in found.items()]


def columns_of(x: np.ndarray, window: Window, rng: np.random.Generator) -> np.ndarray:
    """im2col of x [B, C, H, W]: float32 [positions, C / groups kh kw], at most ROWS positions drawn by `rng`.

    The groups of a grouped convolution count as more pictures: they share the columns of the weight matrix.
    """
    top, left, bottom, right = window.pads
    x = x.reshape(x.shape[0] * window.groups, x.shape[1] // window.groups, *x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    extent = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
    view = sliding_window_view(padded, extent, axis=(2, 3))  # type: ignore[call-overload]
    view = view[:, :, :: window.strides[0], :: window.strides[1], :: window.dilations[0], :: window.dilations[1]]
    view = view.transpose(0, 2, 3, 1, 4, 5)
    picked = np.unravel_index(sample(prod(view.shape[:3]), rng), view.shape[:3])
    return view[picked].reshape(len(picked[0]), -1)
