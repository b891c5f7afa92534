"""Where a graph's layers read their inputs, and those inputs as the rows that multiply the weight."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.lib.stride_tricks import sliding_window_view

from qsched_edge.errors import QuantizeError
from qsched_edge.quantize.rewrite import kind_of

ROWS = 2048  # inputs of a layer kept of one call; large pictures have more, which say little that is new


@dataclass(frozen=True)
class Window:
    """How a convolution reads its input: sizes (rows, columns), `pads` top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    groups: int

    def columns(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """im2col of x [B, C, H, W]: float32 [positions, C / groups kh kw], at most ROWS positions drawn by `rng`.

        The groups of a grouped convolution count as more pictures: they share the columns of the weight matrix.
        """
        top, left, bottom, right = self.pads
        x = x.reshape(x.shape[0] * self.groups, x.shape[1] // self.groups, *x.shape[2:])
        padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        extent = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        view = sliding_window_view(padded, extent, axis=(2, 3))  # type: ignore[call-overload]
        view = view[:, :, :: self.strides[0], :: self.strides[1], :: self.dilations[0], :: self.dilations[1]]
        view = view.transpose(0, 2, 3, 1, 4, 5)
        picked = np.unravel_index(sample(prod(view.shape[:3]), rng), view.shape[:3])
        return view[picked].reshape(len(picked[0]), -1)


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
            return self.window.columns(x, rng)
        flat = x.reshape(-1, self.width)
        return flat[sample(len(flat), rng)]


def sample(count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of at most ROWS of `count` rows, sorted."""
    return np.arange(count) if count <= ROWS else np.sort(rng.choice(count, ROWS, replace=False))


def taps_of(graph: ir.Graph) -> list[Tap]:
    """One tap for each distinct input of the graph's linear and convolution layers, in the order of the weights."""
    found: dict[tuple[tuple[str, ...], Window | None], tuple[list[str], int]] = {}
    for name, value in graph.initializers.items():
        kind = kind_of(value)
        if kind not in ("linear", "conv") or value.shape is None:
            continue
        values = tuple(dict.fromkeys(str(node.inputs[0].name) for node in readers(value) if node.inputs[0]))
        window = window_of(value) if kind == "conv" else None
        names, _ = found.setdefault((values, window), ([], prod(value.shape.numpy()[1:])))
        names.append(name)
    return [Tap(tuple(names), values, width, window) for (values, window), (names, width) in found.items()]


def readers(value: ir.Value) -> list[ir.Node]:
    """The Conv, Gemm or MatMul nodes whose weight `value` is, through its Transpose where there is one."""
    nodes = [node for node, _ in value.uses()]
    return [
        reader
        for node in nodes
        for reader in ([n for n, _ in node.outputs[0].uses()] if node.op_type == "Transpose" else [node])
    ]


def window_of(value: ir.Value) -> Window:
    """The window of the convolution whose weight [O, I, kh, kw] is `value`."""
    (node, _), *_ = value.uses()
    shape = value.shape.numpy() if value.shape is not None else ()
    attributes = node.attributes
    padding = attributes["auto_pad"].as_string() if "auto_pad" in attributes else "NOTSET"
    if len(shape) != 4 or padding != "NOTSET":
        raise QuantizeError(f"{value.name}: a convolution of weights {shape} padded {padding} cannot be observed")

    def integers(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(attributes[name].as_ints()) if name in attributes else default

    strides, pads, dilations = integers("strides", (1, 1)), integers("pads", (0,) * 4), integers("dilations", (1, 1))
    groups = attributes["group"].as_int() if "group" in attributes else 1
    return Window(tuple(shape[2:]), strides, pads, dilations, groups)  # type: ignore[arg-type]
