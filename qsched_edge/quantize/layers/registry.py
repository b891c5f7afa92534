"""The kinds of layers by name; a further one is a file beside this one and a line here."""

from __future__ import annotations

from functools import cache

from qsched_edge.lookup import lookup
from qsched_edge.precision import Scheme
from qsched_edge.quantize.layers.kind import LayerKind

LAYER_KINDS = {
    "linear": "qsched_edge.quantize.layers.linear:LINEAR",
    "conv": "qsched_edge.quantize.layers.conv:CONV",
    "embedding": "qsched_edge.quantize.layers.embedding:EMBEDDING",
    "other": "qsched_edge.quantize.layers.other:OTHER",
}


def layer_kind(name: str) -> LayerKind:
    found: LayerKind = lookup(LAYER_KINDS[name])
    return found


@cache
def layer_kinds() -> tuple[LayerKind, ...]:
    return tuple(map(layer_kind, LAYER_KINDS))


def stored_as(kind: LayerKind, scheme: Scheme) -> LayerKind:
    """The kind whose encoder and operators a weight gets: a float is stored as it is, whatever reads it."""
    return kind if scheme.is_integer else layer_kind("other")
