"""How much the backbone's output changes when one weight alone is quantized, on the sampler's own trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from qsched_runtime.sessions import DTYPES, Feeds, session_options

from qsched_edge.checkpoint.weights import Weights
from qsched_edge.observe.allocation import Option
from qsched_edge.precision import Scheme
from qsched_edge.quantize.encode import SMALL, WeightRows, quantized, stored_bytes
from qsched_edge.quantize.feeds import read_feeds, spread
from qsched_edge.quantize.moments import Moments
from qsched_edge.quantize.rewrite import kind_of
from qsched_edge.work.journal import Journal

CALLS = 6  # recorded calls, spread over the trajectory, that every candidate is measured on
OVERRIDABLE = "overridable.onnx"
WIDTHS = (4, 8, 16)  # fewer bits gain no bytes in convolutions


@dataclass(frozen=True)
class Candidate:
    """One weight: name, kind ("linear", "conv"), shape and the schemes it may have."""

    name: str
    kind: str
    shape: tuple[int, ...]
    schemes: tuple[Scheme, ...]


class Backbone:
    """The 32-bit graph with weights that a run may replace: initializers that are inputs as well (IR 4 and later)."""

    def __init__(self, graph: Path, names: Sequence[str], feeds: Sequence[Path]) -> None:
        model = ir.load(graph)
        model.graph.inputs.extend(model.graph.initializers[name] for name in names)
        path = graph.with_name(OVERRIDABLE)  # beside the weights, whose file it shares
        ir.save(model, path)
        self.session = ort.InferenceSession(path, session_options("low", None), providers=["CPUExecutionProvider"])
        path.unlink()
        types = {i.name: DTYPES[i.type[7:-1]] for i in self.session.get_inputs()}
        self.feeds = [{n: np.ascontiguousarray(given[n], types[n]) for n in types} for given in map(read_feeds, feeds)]
        self.expected = [self.run(given, {}) for given in self.feeds]
        self.energy = sum(float(np.square(e, dtype=np.float64).sum()) for e in self.expected)

    def run(self, given: Feeds, weights: Feeds) -> np.ndarray:
        (output,) = self.session.run(None, {**given, **weights})
        return output

    def error(self, weights: Feeds) -> float:
        """|e' - e|^2 / |e|^2 over all feeds, e' computed with `weights` in the place of the graph's own."""
        total = 0.0
        for given, expected in zip(self.feeds, self.expected, strict=True):
            total += float(np.square(self.run(given, weights) - expected, dtype=np.float64).sum())
        return total / self.energy


def candidates_of(graph: ir.Graph, schemes: Callable[[str, int], Scheme]) -> tuple[list[Candidate], int, int]:
    """The weights that have a choice; bytes of all others; bytes of all weights in FP16.

    `schemes(name, bits)` is what the recipe makes of `bits` for a weight: widths it does not allow become others.
    The graph may have no values yet.
    """
    found, fixed, fp16 = [], 0, 0
    for name, value in graph.initializers.items():
        if value.dtype != ir.DataType.FLOAT or value.shape is None:
            continue
        shape, kind = tuple(value.shape.numpy()), kind_of(value)
        fp16 += 2 * prod(shape)
        allowed = tuple(dict.fromkeys(schemes(name, bits) for bits in WIDTHS))
        if kind not in ("linear", "conv") or not any(scheme.is_integer for scheme in allowed):
            fixed += float_bytes(shape, allowed[0].weight_bits)
        else:
            found.append(Candidate(name, kind, shape, allowed))
    return found, fixed, fp16


def sensitivities(
    graph: Path,
    candidates: Sequence[Candidate],
    weights: Weights,
    feeds: Sequence[Path],
    moments_of: Callable[[str], Moments | None],
    journal: Journal,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, list[Option]]:
    """For each candidate its options; what an interrupted run has measured is in `journal`."""
    backbone: list[Backbone] = []  # loaded when something has to be measured

    def measured(candidate: Candidate, scheme: Scheme) -> float:
        if not backbone:
            backbone.append(Backbone(graph, [c.name for c in candidates], spread(feeds, CALLS)))
        return backbone[0].error({candidate.name: restored(candidate, scheme, weights, moments_of)})

    options: dict[str, list[Option]] = {}
    for c in candidates:
        options[c.name] = []
        for scheme in c.schemes:
            key = [c.name, repr(scheme)]
            error = journal.recall(key, lambda c=c, scheme=scheme: measured(c, scheme))  # type: ignore[misc]
            options[c.name].append(Option(scheme.weight_bits, bytes_of(c, scheme), error))
        advance(1)
    return options


def restored(
    candidate: Candidate, scheme: Scheme, weights: Weights, moments_of: Callable[[str], Moments | None]
) -> np.ndarray:
    """The weight as the quantized graph will compute with it, float32 in its own shape."""
    rows = WeightRows(weights, candidate.name, candidate.shape, moments=moments_of(candidate.name))
    if scheme.is_integer:
        parts = [matrix.dequantize() for matrix in quantized(rows, scheme)]
    else:
        parts = [part.astype(np.float16).astype(np.float32) for part in rows]
    return np.concatenate(parts).reshape(candidate.shape)


def bytes_of(candidate: Candidate, scheme: Scheme) -> int:
    """What `encode` stores for the weight: integers, scales and zero points; every method stores as many."""
    if not scheme.is_integer:
        return float_bytes(candidate.shape, scheme.weight_bits)
    return stored_bytes(candidate.kind, candidate.shape, scheme)


def float_bytes(shape: tuple[int, ...], bits: int) -> int:
    """Of a weight that is stored as floats because its kind or its recipe wants no integers."""
    return prod(shape) * (4 if bits == 32 or prod(shape) < SMALL else 2)
