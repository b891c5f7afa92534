"""Quantize any ONNX graph, also one this project did not export, and say what became of every weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx_ir as ir
from qsched_runtime.manifest import sha256

from qsched_edge.errors import QuantizeError
from qsched_edge.foreign.compare import Difference, compare
from qsched_edge.foreign.graph_weights import external_files, raw_bytes
from qsched_edge.foreign.prepare import Left, PreparedGraph, prepared_graph
from qsched_edge.foreign.probe_inputs import read_inputs
from qsched_edge.foreign.reading import read_graph
from qsched_edge.foreign.settings import QuantizeSettings
from qsched_edge.quantize.emit import CONTRIB
from qsched_edge.quantize.resident import Resident, resident_if_large
from qsched_edge.quantize.rewrite import Layer, WeightPlan, replace_weights
from qsched_edge.quantize.store import INLINE_BYTES, Packed, TensorStore
from qsched_edge.work import progress
from qsched_edge.work.staging import StagedGraph

ONE_FILE = 2**23  # bytes of data up to which the output is one file: onnxruntime copies such data, and maps a data file

RUNNING = 2  # a running graph takes about this many times its files
NOT_MEASURED = "error  not measured: --max-ram leaves no room to run the graphs, which takes about twice their bytes"


@dataclass(frozen=True)
class QuantizeReport:
    """What was quantized, what was left and why, bytes before and after, and how far the outputs moved.

    `difference` and `memory` are None where the memory limit leaves no room to run the graphs, `memory` also for a
    small graph.
    """

    layers: list[Layer]
    left: list[Left]
    opset: tuple[int, int]
    bytes: tuple[int, int]
    difference: Difference | None
    memory: Resident | None

    @property
    def ratio(self) -> float:
        return self.bytes[0] / self.bytes[1]

    def json(self) -> dict[str, Any]:
        memory = {} if self.memory is None else {**asdict(self.memory), "ratio": round(self.memory.ratio, 2)}
        difference = self.difference.json() if self.difference else None
        return {**asdict(self), "ratio": round(self.ratio, 3), "difference": difference, "memory": memory}

    def text(self) -> str:
        before, after = self.bytes
        lines = [*quantized_lines(self.layers), *left_lines(self.left)]
        if self.opset[0] != self.opset[1]:
            lines.append(f"opset {self.opset[0]} became {self.opset[1]}")
        lines.append(f"size   {before:,} -> {after:,} bytes, {self.ratio:.2f} times smaller")
        lines += self.difference.lines() if self.difference else [NOT_MEASURED]
        return "\n".join([*lines, self.memory.line] if self.memory else lines)


def quantize(
    graph: Path, output: Path, settings: QuantizeSettings, force: bool = False, quiet: bool = False
) -> QuantizeReport:
    """Write `output` (and `output`_data when it is large) and compare it with `graph`; nothing is left half written.

    Raises WeightsError for a graph or external data that cannot be read, QuantizeError where nothing can be quantized
    or onnxruntime cannot run the graph, OutputExistsError unless `force`.
    """
    model = read_graph(graph)
    files = {graph.resolve(), *external_files(model)}
    for target in (output, output.with_name(f"{output.name}_data")):
        if target.resolve() in files:
            raise QuantizeError(f"{target} belongs to the input: choose another output")
    opset, before = model.opset_imports[""], sum(file.stat().st_size for file in files)
    arguments = {"files": {str(file): sha256(file) for file in sorted(files)}, "scheme": repr(settings.scheme)}
    staging = StagedGraph(output, arguments, force)
    if settings.inputs is not None:
        read_inputs(settings.inputs, [str(value.name) for value in model.graph.inputs])
    prepared = prepared_graph(model, settings.scheme)
    if not prepared.names:
        reasons = "; ".join(sorted({left.reason for left in prepared.left})) or "it has no weights"
        raise QuantizeError(f"nothing in {graph} can be quantized: {reasons}")
    with staging:
        staged = staging.folder / output.name
        layers = write(prepared, settings, staged, quiet)
        after = sum(f.stat().st_size for f in staging.folder.glob(f"{output.name}*"))
        room = settings.ram.limit is None or settings.ram.holds(RUNNING * max(before, after))
        found = compare(graph, staged, settings.inputs, settings.seed) if room else None
        memory = resident_if_large(staged) if room else None
    opsets = (opset, prepared.model.opset_imports[""])
    return QuantizeReport(layers, prepared.left, opsets, (before, after), found, memory)


def write(prepared: PreparedGraph, settings: QuantizeSettings, staged: Path, quiet: bool) -> list[Layer]:
    """Stream the weights into `staged`_data, then save the graph; a small one becomes a single file."""
    model = prepared.model
    total = sum(2 * prod(prepared.weights.shape(name)) for name in prepared.names)
    with (
        progress.bar(settings.scheme.name, total, "B", quiet) as advance,
        TensorStore(staged.parent, f"{staged.name}_data") as store,
    ):
        plan = WeightPlan(prepared.weights, lambda name, kind: settings.scheme, settings.ram)
        layers = replace_weights(model.graph, prepared.names, plan, store, advance)
        keep_the_rest(model, store)
    model.opset_imports[CONTRIB] = 1
    data = staged.with_name(f"{staged.name}_data")
    if data.stat().st_size <= ONE_FILE:
        ir.external_data.load_to_model(model)
        data.unlink()
    ir.save(model, staged)
    return layers


def keep_the_rest(model: ir.Model, store: TensorStore) -> None:
    """Put what stays as it is beside the new weights; small tensors go into the graph file."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING or from_store(tensor, store):
                continue
            if tensor.nbytes > INLINE_BYTES and graph is model.graph:
                (stored,) = store.weight(name, lambda tensor=tensor, name=name: [raw(name, tensor)])  # type: ignore[misc]
                value.const_value = store.value(stored).const_value
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=name)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for key, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[key] = ir.AttrTensor(key, ir.tensor(attribute.value.numpy().copy()))


def from_store(tensor: ir.TensorProtocol, store: TensorStore) -> bool:
    return isinstance(tensor, ir.ExternalTensor) and Path(tensor.path) == store.path


def raw(name: str, tensor: ir.TensorProtocol) -> Packed:
    return Packed(name, raw_bytes(tensor), tensor.dtype.name, tuple(int(d) for d in tensor.shape.numpy()))


def quantized_lines(layers: Iterable[Layer]) -> list[str]:
    """One line for each kind and precision."""
    groups: dict[tuple[str, str], list[Layer]] = defaultdict(list)
    for layer in layers:
        groups[layer.kind, layer.precision].append(layer)
    return [
        f"{precision:6} {kind:10} {len(found):5} weights {sum(prod(la.shape) for la in found):14,} values "
        f"{sum(la.bytes for la in found):14,} bytes"
        for (kind, precision), found in sorted(groups.items())
    ]


def left_lines(left: Iterable[Left], shown: int = 3) -> list[str]:
    """One line for each reason, with the largest weights it holds for."""
    groups: dict[str, list[Left]] = defaultdict(list)
    for weight in left:
        groups[weight.reason].append(weight)
    lines = []
    for reason, found in sorted(groups.items(), key=lambda item: -sum(w.bytes for w in item[1])):
        names = [w.name for w in sorted(found, key=lambda w: -w.bytes)[:shown]]
        more = f" and {len(found) - shown} more" if len(found) > shown else ""
        lines.append(f"left   {sum(w.bytes for w in found):14,} bytes: {reason}: {', '.join(names)}{more}")
    return lines
