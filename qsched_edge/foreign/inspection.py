"""What is in a graph or a bundle: each weight's kind, shape, bits and bytes, and their shares of the whole."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from qsched_runtime import manifest as manifests
from qsched_runtime.sampler import check_graphs

from qsched_edge.checkpoint.recipes import read_json
from qsched_edge.errors import BundleError, WeightsError
from qsched_edge.foreign.graph_weights import check_external, external_files
from qsched_edge.foreign.listing import ListedWeight, listed_weights
from qsched_edge.quantize.rewrite import REPORT


@dataclass(frozen=True)
class GraphSummary:
    """One graph: its weights (small ones in one line) and the bytes of its files."""

    name: str
    file_bytes: int
    weights: list[ListedWeight]

    def shares(self) -> dict[str, dict[str, dict[str, int]]]:
        return shares(self.weights)


@dataclass(frozen=True)
class Inspection:
    """A graph, or a bundle with its components."""

    target: str
    graphs: list[GraphSummary]

    def json(self) -> dict[str, Any]:
        every = [weight for graph in self.graphs for weight in graph.weights]
        graphs = [{**asdict(graph), "shares": graph.shares()} for graph in self.graphs]
        total = sum(graph.file_bytes for graph in self.graphs)
        return {"target": self.target, "file_bytes": total, "shares": shares(every), "graphs": graphs}

    def text(self) -> str:
        lines = []
        for graph in self.graphs:
            lines += [
                f"{graph.name}: {graph.file_bytes:,} bytes",
                *map(weight_line, graph.weights),
                *share_lines(graph.weights),
            ]
        if len(self.graphs) > 1:
            every = [weight for graph in self.graphs for weight in graph.weights]
            total = sum(graph.file_bytes for graph in self.graphs)
            lines += [f"{self.target}: {total:,} bytes in {len(self.graphs)} graphs", *share_lines(every)]
        return "\n".join(lines)


def inspect(target: Path) -> Inspection:
    """Read an ONNX file or a bundle's folder; raises WeightsError or BundleError if it is neither."""
    if target.is_dir():
        manifest = manifests.read(target)
        check_graphs(target, manifest, "any")
        components = manifest.components
        found = [
            graph_summary(name, target / c.file, names_in(target / c.file).get("layers", {}))
            for name, c in components.items()
        ]
        return Inspection(str(target), found)
    if zipfile.is_zipfile(target):
        raise BundleError(f"{target} is a packed bundle: unpack it first (qsched-edge unpack {target.name} -o FOLDER)")
    return Inspection(str(target), [graph_summary(target.name, target, {})])


def names_in(graph: Path) -> dict[str, Any]:
    """What the export noted beside a component's graph."""
    return read_json(graph.with_name(REPORT)) if graph.with_name(REPORT).is_file() else {}


def graph_summary(name: str, path: Path, noted: dict[str, str]) -> GraphSummary:
    """`noted` says which precision a container holds: the graph cannot tell 3 bits from 4."""
    if not path.is_file():
        raise WeightsError(f"no graph at {path}: the file does not exist")
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf, onnx and onnx_ir raise from unrelated classes
        raise WeightsError(f"{path} cannot be read as ONNX ({type(error).__name__}): give an .onnx file") from error
    check_external(model, path.parent)
    weights = [replace(w, precision=noted.get(w.name, w.precision)) for w in listed_weights(model)]
    total = sum(file.stat().st_size for file in {path.resolve(), *external_files(model)})
    return GraphSummary(name, total, weights)


def shares(weights: Iterable[ListedWeight]) -> dict[str, dict[str, dict[str, int]]]:
    """Values and bytes by precision and by kind."""
    found: dict[str, dict[str, dict[str, int]]] = {"precision": {}, "kind": {}}
    for weight in weights:
        for table, key in (("precision", weight.precision), ("kind", weight.kind)):
            entry = found[table].setdefault(key, defaultdict(int))
            entry["values"] += weight.values
            entry["bytes"] += weight.bytes
    return found


def weight_line(weight: ListedWeight) -> str:
    shape = " x ".join(map(str, weight.shape))
    return f"  {weight.precision:6} {weight.kind:10} {weight.bits:3} bits {weight.bytes:14,}  {weight.name} [{shape}]"


def share_lines(weights: list[ListedWeight]) -> list[str]:
    total = sum(weight.bytes for weight in weights) or 1
    return [
        f"  {table:9} {key:10} {entry['bytes'] / total:6.1%} of the bytes {entry['bytes']:14,} "
        f"{entry['values']:14,} values"
        for table, entries in shares(weights).items()
        for key, entry in sorted(entries.items(), key=lambda item: -item[1]["bytes"])
    ]
