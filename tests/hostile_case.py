"""A change to a good bundle that makes it hostile, and what such changes are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hostile import Raw, graph_of, put, read, write

GRAPH, DATA, TOKENIZER = "unet/model.onnx", "unet/model.onnx_data", "tokenizer/tokenizer.json"
GOLDEN = "selftest/golden.json"


class Case(NamedTuple):
    """`mutate(folder)` turns a copy of a good bundle into what must be refused."""

    kind: str
    name: str
    mutate: Callable[[Path], object]


def changed(change: Callable[[Raw], object]) -> Callable[[Path], None]:
    """A mutation of qsched.json."""

    def mutate(folder: Path) -> None:
        raw = read(folder)
        change(raw)
        write(folder, raw)

    return mutate


def setting(value: Any, *place: str) -> Callable[[Path], None]:
    """qsched.json with another value at a place."""

    def change(raw: Raw) -> None:
        for key in place[:-1]:
            raw = raw[key]
        raw[place[-1]] = value

    return changed(change)


def without(*place: str) -> Callable[[Path], None]:
    def change(raw: Raw) -> None:
        for key in place[:-1]:
            raw = raw[key]
        del raw[place[-1]]

    return changed(change)


def setting_of(folder: Path, name: str, **values: Any) -> None:
    raw = read(folder)
    (file,) = (f for f in raw["files"] if f["path"] == name)
    file.update(values)
    write(folder, raw)


def relocated(folder: Path, **place: str) -> None:
    """Another place for the first weight that lies outside the graph."""
    model = graph_of(folder)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    for key, value in place.items():
        (entry,) = [e for e in tensor.external_data if e.key == key] or [tensor.external_data.add(key=key)]
        entry.value = value
    put(folder, GRAPH, model.SerializeToString())
