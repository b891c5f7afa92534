"""Packed convolution weights read by onnxruntime's faster operator: the same bytes, the same floats, another kernel.

A bundle's convolutions stand behind DequantizeLinear in blocks, which every runtime has and which onnxruntime unfolds
on one thread, value by value. From version 1.31 on its GatherBlockQuantized does the same in two thirds of the time,
and on all threads; before, it takes three times as long. So the form is chosen here, at load, and not in the file.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from qsched_runtime.wire import Field, WireError, field_bytes, fields, numbers, same_bytes, text

FAST_FROM = (1, 31)  # onnxruntime's version; measured at 1.24, 1.26, 1.28, 1.31 and 1.32
UINT8, INT64, UINT4 = 2, 7, 21  # ONNX's data types
BITS = {UINT8: 8, UINT4: 4}
CONTRIB_DOMAIN = "com.microsoft"
MODEL_GRAPH, MODEL_OPSETS = 7, 8  # numbers of fields, here and below
NODES, INITIALIZERS, OUTPUTS = 1, 5, 12
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME = 1, 2, 8
PLACED = (9, 13, 14)  # a tensor's raw bytes, or where they lie in another file
INT = 2  # an attribute's type


@dataclass(frozen=True)
class NodeEntry:
    """A node as far as it matters here."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int]


@dataclass(frozen=True)
class TensorEntry:
    """A weight's name, type and shape; `plain` unless its values lie in fields that depend on the type."""

    name: str
    dtype: int
    dims: tuple[int, ...]
    plain: bool


@dataclass
class GraphParts:
    """A graph's nodes and weights by the byte where they begin; readers of each value."""

    nodes: dict[int, NodeEntry] = field(default_factory=dict)
    tensors: dict[int, TensorEntry] = field(default_factory=dict)
    readers: Counter[str] = field(default_factory=Counter)
    reshaped: Counter[str] = field(default_factory=Counter)


def unpacked_fast(data: bytes) -> bytes:
    """The ONNX file `data` with GatherBlockQuantized in the place of each blocked DequantizeLinear that it can replace;
    `data` itself where there is none. Raises WireError for what is no ONNX file."""
    graph = next((part for part in fields(data, 0, len(data)) if part.number == MODEL_GRAPH), None)
    if graph is None or graph.value != -1:
        raise WireError("no graph")
    parts = parts_of(data, graph)
    nodes, tensors, rows = replacements(parts)
    if not nodes:
        return data
    changed = bytearray()
    for part in fields(data, graph.start, graph.end):
        if part.number == NODES and part.start in nodes:
            changed += field_bytes(NODES, nodes[part.start])
        elif part.number == INITIALIZERS and part.start in tensors:
            changed += field_bytes(INITIALIZERS, retyped(data, part, *tensors[part.start]))
        else:
            changed += same_bytes(data, part)
    for count in sorted(rows):
        changed += field_bytes(INITIALIZERS, row_numbers(count))
    kept = [part for part in fields(data, 0, len(data)) if part.number != MODEL_GRAPH]
    model = b"".join(same_bytes(data, part) for part in kept) + field_bytes(MODEL_GRAPH, bytes(changed))
    known = CONTRIB_DOMAIN in (domain_of(data, part) for part in kept if part.number == MODEL_OPSETS)
    return model if known else model + field_bytes(MODEL_OPSETS, field_bytes(1, CONTRIB_DOMAIN) + field_bytes(2, 1))


def parts_of(data: bytes, graph: Field) -> GraphParts:
    found = GraphParts()
    for part in fields(data, graph.start, graph.end):
        if part.number == NODES:
            node = found.nodes[part.start] = node_entry(data, part)
            found.readers.update(node.inputs)
            if node.operator == "Reshape":
                found.reshaped.update(node.inputs[:1])
        elif part.number == INITIALIZERS:
            found.tensors[part.start] = tensor_entry(data, part)
        elif part.number == OUTPUTS:
            found.readers.update(text(data, p) for p in fields(data, part.start, part.end) if p.number == 1)
    return found


def node_entry(data: bytes, at: Field) -> NodeEntry:
    names: dict[int, list[str]] = {1: [], 2: [], 4: [], 7: []}
    attributes: dict[str, int] = {}
    for part in fields(data, at.start, at.end):
        if part.number in names:
            names[part.number].append(text(data, part))
        elif part.number == 5:
            inner = {p.number: p for p in fields(data, part.start, part.end)}
            if 1 in inner and 3 in inner:
                attributes[text(data, inner[1])] = numbers(data, inner[3])[0]
    operator = ".".join((*filter(None, names[7]), *names[4])).removeprefix("ai.onnx.")
    return NodeEntry(operator, tuple(names[1]), tuple(names[2]), attributes)


def tensor_entry(data: bytes, at: Field) -> TensorEntry:
    dims: list[int] = []
    name, dtype, plain = "", 0, True
    for part in fields(data, at.start, at.end):
        if part.number == TENSOR_DIMS:
            dims += numbers(data, part)
        elif part.number == TENSOR_TYPE:
            dtype = part.value
        elif part.number == TENSOR_NAME:
            name = text(data, part)
        elif part.number not in PLACED:
            plain = False
    return TensorEntry(name, dtype, tuple(dims), plain)


Retyped = dict[int, tuple[int, tuple[int, ...]]]


def replacements(parts: GraphParts) -> tuple[dict[int, bytes], Retyped, set[int]]:
    """New nodes, types and shapes of weights, each by the byte where the old one begins; the numbers of rows."""
    places = {tensor.name: (start, tensor) for start, tensor in parts.tensors.items()}
    casts = {node.outputs[0]: node.inputs[0] for node in parts.nodes.values() if node.operator == "Cast"}
    nodes: dict[int, bytes] = {}
    changed: Retyped = {}
    counts: set[int] = set()
    for start, node in parts.nodes.items():
        if node.operator != "DequantizeLinear" or len(node.inputs) != 3:
            continue
        q_name, scale_name, zero_name = node.inputs
        stored = casts.get(scale_name, scale_name)
        if not {q_name, stored, zero_name} <= places.keys():
            continue
        alone = all(parts.readers[name] == 1 for name in (q_name, scale_name, stored, zero_name))
        (at_q, q), (at_scale, scale), (at_zero, zero) = (places[name] for name in (q_name, stored, zero_name))
        result, block = node.outputs[0], node.attributes.get("block_size", 0)
        rows = rows_of(q, scale, zero, block) if node.attributes.get("axis") == 1 else 0
        if not rows or not alone or parts.readers[result] != parts.reshaped[result]:
            continue
        blocks, bits = scale.dims[0] * scale.dims[1] // rows, BITS[q.dtype]
        changed[at_q] = UINT8, (rows, blocks * block * bits // 8)
        changed[at_zero] = UINT8, (rows, blocks * bits // 8)
        changed[at_scale] = scale.dtype, (rows, blocks)
        counts.add(rows)
        attributes = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
        nodes[start] = gather_node((q_name, numbers_name(rows), scale_name, zero_name), result, attributes)
    return nodes, changed, counts


def rows_of(q: TensorEntry, scale: TensorEntry, zero: TensorEntry, block: int) -> int:
    """In how many rows of whole bytes the weight can be read as it lies; 0 where it cannot.

    Rows with an odd number of blocks are read two by two, so that zero points of 4 bits fill their bytes.
    """
    fits = q.dtype in BITS and zero.dtype == q.dtype and q.plain and zero.plain and scale.plain
    if not fits or len(q.dims) != 2 or len(scale.dims) != 2 or zero.dims != scale.dims or block < 16:
        return 0
    rows, blocks = scale.dims
    if block & (block - 1) or q.dims != (rows, blocks * block):
        return 0
    if q.dtype == UINT8 or blocks % 2 == 0:
        return rows
    return rows // 2 if rows % 2 == 0 else 0


def gather_node(inputs: tuple[str, ...], output: str, attributes: dict[str, int]) -> bytes:
    given = b"".join(field_bytes(1, name) for name in inputs) + field_bytes(2, output)
    said = [field_bytes(1, name) + field_bytes(3, value) + field_bytes(20, INT) for name, value in attributes.items()]
    return (
        given
        + field_bytes(4, "GatherBlockQuantized")
        + b"".join(field_bytes(5, one) for one in said)
        + field_bytes(7, CONTRIB_DOMAIN)
    )


def retyped(data: bytes, at: Field, dtype: int, dims: tuple[int, ...]) -> bytes:
    """The same tensor of another type and shape: its bytes stay."""
    kept = [
        same_bytes(data, part)
        for part in fields(data, at.start, at.end)
        if part.number not in (TENSOR_DIMS, TENSOR_TYPE)
    ]
    return b"".join([*(field_bytes(TENSOR_DIMS, d) for d in dims), field_bytes(TENSOR_TYPE, dtype), *kept])


def numbers_name(rows: int) -> str:
    return f"qsched.rows.{rows}"


def row_numbers(rows: int) -> bytes:
    """The weight 0, 1, ... rows - 1."""
    values = b"".join(i.to_bytes(8, "little") for i in range(rows))
    return field_bytes(1, rows) + field_bytes(2, INT64) + field_bytes(8, numbers_name(rows)) + field_bytes(9, values)


def domain_of(data: bytes, at: Field) -> str:
    return next((text(data, part) for part in fields(data, at.start, at.end) if part.number == 1), "")
