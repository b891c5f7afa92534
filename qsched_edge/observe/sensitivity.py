"""How much the backbone's output changes when one weight alone is quantized, on the sampler's own trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from qsched_runtime.sessions import DTYPES, Feeds, session_options

from qsched_edge.checkpoint.weights import Weights
from qsched_edge.observe.allocation import Option
from qsched_edge.precision import Scheme
from qsched_edge.quantize.encode import WeightRows, quantized
from qsched_edge.quantize.feeds import read_feeds, spread
from qsched_edge.quantize.layers.kind import LayerKind
from qsched_edge.quantize.layers.other import OTHER
from qsched_edge.quantize.layers.readers import kind_of
from qsched_edge.quantize.layers.registry import stored_as
from qsched_edge.quantize.moments import Moments
from qsched_edge.work.journal import Journal

MEASURED_CALLS = 6  # recorded calls, spread over the trajectory, that every candidate is measured on
OVERRIDABLE = "overridable.onnx"
WIDTHS = (4, 8, 16)  # fewer bits gain no bytes in convolutions


@dataclass(frozen=True)
class WidthCandidate:
    """One weight whose width is to be chosen: name, kind, shape and the schemes it may have."""

    name: str
    kind: LayerKind
    shape: tuple[int, ...]
    schemes: tuple[Scheme, ...]


class WidthChoices(NamedTuple):
    """The weights that have a choice; bytes of all others; bytes of all weights in FP16."""

    candidates: list[WidthCandidate]
    fixed: int
    fp16: int


@dataclass(frozen=True)
class Backbone:
    """The 32-bit graph with weights that a run may replace, recorded feeds, its outputs for them, and their energy."""

    session: ort.InferenceSession
    feeds: list[Feeds]
    expected: list[np.ndarray]
    energy: float

    def error(self, weights: Feeds) -> float:
        """|e' - e|^2 / |e|^2 over all feeds, e' computed with `weights` in the place of the graph's own."""
        total = 0.0
        for given, expected in zip(self.feeds, self.expected, strict=True):
            total += float(np.square(output_of(self.session, {**given, **weights}) - expected, dtype=np.float64).sum())
        return total / self.energy


def load_backbone(graph: Path, names: Sequence[str], feeds: Sequence[Path]) -> Backbone:
    """Run the graph on the feeds; its weights `names` become inputs as well as initializers (IR 4 and later)."""
    model = ir.load(graph)
    model.graph.inputs.extend(model.graph.initializers[name] for name in names)
    path = graph.with_name(OVERRIDABLE)  # beside the weights, whose file it shares
    ir.save(model, path)
    session = ort.InferenceSession(path, session_options("low", None), providers=["CPUExecutionProvider"])
    path.unlink()
    types = {i.name: DTYPES[i.type[7:-1]] for i in session.get_inputs()}
    read = [{n: np.ascontiguousarray(given[n], types[n]) for n in types} for given in map(read_feeds, feeds)]
    expected = [output_of(session, given) for given in read]
    return Backbone(session, read, expected, sum(float(np.square(e, dtype=np.float64).sum()) for e in expected))


def output_of(session: ort.InferenceSession, given: Feeds) -> np.ndarray:
    (output,) = session.run(None, given)
    return output


def width_choices(graph: ir.Graph, schemes: Callable[[str, int], Scheme]) -> WidthChoices:
    """`schemes(name, bits)` is what the recipe makes of `bits` for a weight: widths it does not allow become others.

    The graph may have no values yet.
    """
    found, fixed, fp16 = [], 0, 0
    for name, value in graph.initializers.items():
        if value.dtype != ir.DataType.FLOAT or value.shape is None:
            continue
        shape, kind = tuple(value.shape.numpy()), kind_of(value, graph)
        fp16 += 2 * prod(shape)
        allowed = tuple(dict.fromkeys(schemes(name, bits) for bits in WIDTHS))
        if not kind.multiplies or not any(scheme.is_integer for scheme in allowed):
            fixed += OTHER.stored_bytes(shape, allowed[0])
        else:
            found.append(WidthCandidate(name, kind, shape, allowed))
    return WidthChoices(found, fixed, fp16)


def sensitivities(
    graph: Path,
    candidates: Sequence[WidthCandidate],
    weights: Weights,
    feeds: Sequence[Path],
    moments_of: Callable[[str], Moments | None],
    journal: Journal,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, list[Option]]:
    """For each candidate its options; what an interrupted run has measured is in `journal`."""
    backbone: list[Backbone] = []  # loaded when something has to be measured

    def measured(candidate: WidthCandidate, scheme: Scheme) -> float:
        if not backbone:
            backbone.append(load_backbone(graph, [c.name for c in candidates], spread(feeds, MEASURED_CALLS)))
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
    candidate: WidthCandidate, scheme: Scheme, weights: Weights, moments_of: Callable[[str], Moments | None]
) -> np.ndarray:
    """The weight as the quantized graph will compute with it, float32 in its own shape."""
    rows = WeightRows(weights, candidate.name, candidate.shape, moments=moments_of(candidate.name))
    if scheme.is_integer:
        parts = [matrix.dequantize() for matrix in quantized(rows, scheme)]
    else:
        parts = [part.astype(np.float16).astype(np.float32) for part in rows]
    return np.concatenate(parts).reshape(candidate.shape)


def bytes_of(candidate: WidthCandidate, scheme: Scheme) -> int:
    """What is stored for the weight: integers, scales and zero points; every method stores as many."""
    return stored_as(candidate.kind, scheme).stored_bytes(candidate.shape, scheme)
