"""A graph from a stranger, before onnxruntime sees it: its operators, where its weights lie, what it claims to hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from qsched_runtime.allocation import WATCHED, WatchedNode, check_node, joined, small_values
from qsched_runtime.errors import BundleError
from qsched_runtime.operators import OPERATORS
from qsched_runtime.wire import Field, WireError, fields, numbers, once, text

LARGEST_GRAPH = 256 * 2**20  # bytes of the graph itself; its large weights lie in data files
MOST_NODES, MOST_TENSORS = 50_000, 50_000  # FLUX's transformer has some 10,000
MOST_VALUES = 2**34  # of one weight

BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 17: 8, 18: 8,
        19: 8, 20: 8, 21: 4, 22: 4}  # fmt: skip  # of ONNX's data types; no texts, no complex numbers

MODEL, GRAPH, NODE = frozenset({1, 7}), frozenset({2}), frozenset({4, 7, 8})
ATTRIBUTE, TENSOR, ENTRY, VALUE, OPSET = (
    frozenset({1, 4, 5, 6, 20}),
    frozenset({2, 8, 9, 14}),
    frozenset({1, 2}),
    frozenset({1, 2}),
    frozenset({1, 2}),
)


@dataclass
class Found:
    """What a graph is made of: names of inputs and outputs, places of weights in data files, small constants."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tensors: set[str] = field(default_factory=set)
    places: list[tuple[str, int, int]] = field(default_factory=list)
    constants: dict[str, list[float]] = field(default_factory=dict)
    watched: list[WatchedNode] = field(default_factory=list)
    joined: dict[str, int] = field(default_factory=dict)  # how many times over a value was joined to itself


def inspect_graph(data: bytes, name: str, files: Mapping[str, int], trusted: bool = False) -> Found:
    """What the ONNX file `name`, of the bytes `data`, is made of; BundleError for what no bundle holds.

    `files` are the bundle's listed files by their paths, with their bytes: all weights lie in them, beside the graph.
    `trusted` lets every operator pass.
    """
    try:
        if len(data) > LARGEST_GRAPH:
            raise WireError(f"more than {LARGEST_GRAPH} bytes")
        found, domains = Found(), set[str]()
        for part in once(fields(data, 0, len(data)), MODEL):
            if part.number == 7:
                read_graph(data, part, found, trusted)
            elif part.number == 25 and not trusted:
                raise WireError("functions of its own")
            elif part.number == 20:
                raise WireError("training information")
            elif part.number == 8:
                domains.add(domain_of(data, part))
        if not found.outputs:
            raise WireError("no graph with outputs")
        if "" not in domains:
            raise WireError("it does not say which version of ONNX's operators it has")
        for node in found.watched:
            check_node(node, found.constants)
        check_places(found, PurePosixPath(name), files)
    except WireError as error:
        raise BundleError(f"{name} is no graph that a bundle may hold ({error}): refused") from error
    return found


def read_graph(data: bytes, at: Field, found: Found, trusted: bool) -> None:
    nodes = 0
    for part in once(inner(data, at), GRAPH):
        if part.number == 1:
            nodes += 1
            read_node(data, part, found, trusted)
        elif part.number == 5:
            read_tensor(data, part, found, may_lie_outside=True)
        elif part.number in (11, 12):
            (found.inputs if part.number == 11 else found.outputs).append(name_of(data, part))
        elif part.number == 15:
            raise WireError("sparse weights")
        if nodes > MOST_NODES or len(found.tensors) > MOST_TENSORS:
            raise WireError(f"more than {MOST_NODES} nodes or {MOST_TENSORS} weights")


def inner(data: bytes, at: Field) -> Iterator[Field]:
    if at.value != -1:
        raise WireError(f"field {at.number} is a number, not a message")
    return fields(data, at.start, at.end)


def domain_of(data: bytes, at: Field) -> str:
    """Of operators whose version a graph states."""
    found = next((text(data, part) for part in once(inner(data, at), OPSET) if part.number == 1), "")
    return "" if found == "ai.onnx" else found


def name_of(data: bytes, at: Field) -> str:
    """Of a graph's input or output."""
    return next((text(data, part) for part in once(inner(data, at), VALUE) if part.number == 1), "")


def read_node(data: bytes, at: Field, found: Found, trusted: bool) -> None:
    operator = domain = ""
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: list[Field] = []
    for part in once(inner(data, at), NODE):
        if part.number == 4:
            operator = text(data, part)
        elif part.number == 7:
            domain = text(data, part)
        elif part.number in (1, 2):
            (inputs if part.number == 1 else outputs).append(text(data, part))
        elif part.number == 5:
            attributes.append(part)
    domain = "" if domain == "ai.onnx" else domain
    if not trusted and operator not in OPERATORS.get(domain, ()):
        known = f"the operator {domain or 'ai.onnx'}.{operator}"
        raise WireError(f"it has {known[:80]}, which this project does not emit; trust='any' is for graphs of your own")
    constant, widest = outputs[0] if operator == "Constant" and outputs else "", 0
    for part in attributes:
        widest = max(widest, read_attribute(data, part, found, constant, trusted))
    if operator in WATCHED and domain == "":
        found.watched.append(WatchedNode(operator, tuple(inputs), widest))
    times = joined(operator, inputs, found.joined)
    found.joined.update(dict.fromkeys(outputs if times > 1 else (), times))


def read_attribute(data: bytes, at: Field, found: Found, constant: str, trusted: bool) -> int:
    """The largest of its whole numbers; those of the node Constant are its value."""
    ints: list[int] = []
    for part in once(inner(data, at), ATTRIBUTE):
        if part.number in (3, 8):
            ints += numbers(data, part)
        elif part.number in (2, 7) and constant:
            found.constants[constant] = small_values(data, 1, part, ()) or []
        if part.number in (6, 11) and not trusted:
            raise WireError("a graph within a node")
        if part.number in (22, 23):
            raise WireError("sparse weights")
        if part.number in (5, 10):
            read_tensor(data, part, found, may_lie_outside=False, name=constant)
    if constant and ints:
        found.constants.setdefault(constant, [float(v) for v in ints])
    return max(map(abs, ints), default=0)


def read_tensor(data: bytes, at: Field, found: Found, may_lie_outside: bool, name: str = "") -> None:
    dims: list[int] = []
    kind = location = held = 0
    raw: Field | None = None
    typed: list[Field] = []
    entries: dict[str, str] = {}
    for part in once(inner(data, at), TENSOR):
        if part.number == 1:
            dims += numbers(data, part)
        elif part.number == 2:
            kind = part.value
        elif part.number in (4, 5, 7, 10, 11):
            held += part.end - part.start if part.value == -1 else 1
            typed.append(part)
        elif part.number == 8:
            name = name or text(data, part)
        elif part.number == 9:
            raw = part
        elif part.number == 13:
            key, value = entry(data, part)
            if key in entries or key not in ("location", "offset", "length", "checksum"):
                raise WireError(f"the place of a weight says {key[:40]!r} twice, or no runtime knows it")
            entries[key] = value
        elif part.number == 14:
            location = part.value
    size = size_of(dims, kind)
    values = small_values(data, kind, raw, typed)
    if values is not None and not entries:
        found.constants[name] = values
    if may_lie_outside:
        if name in found.tensors:
            raise WireError(f"two weights of the name {name[:60]!r}")
        found.tensors.add(name)
    if entries or location:
        if not may_lie_outside or location != 1 or raw is not None or held:
            raise WireError(f"the weight {name[:60]!r} lies both in the graph and outside it, or where none may")
        found.places.append(place(entries, size))
    elif raw is not None:
        if raw.end - raw.start != size:
            raise WireError(f"the weight {name[:60]!r} has {raw.end - raw.start} bytes, its shape asks for {size}")
    elif math.prod(dims) > 2 * held:
        raise WireError(f"the weight {name[:60]!r} has fewer values than its shape asks for")


def size_of(dims: list[int], kind: int) -> int:
    """Bytes of a tensor."""
    if kind not in BITS:
        raise WireError(f"a weight of the data type {kind}")
    if len(dims) > 8 or any(not 0 <= d <= MOST_VALUES for d in dims) or math.prod(dims) > MOST_VALUES:
        raise WireError(f"a weight of the shape {dims[:8]}")
    return (math.prod(dims) * BITS[kind] + 7) // 8


def entry(data: bytes, at: Field) -> tuple[str, str]:
    key = value = ""
    for part in once(inner(data, at), ENTRY):
        if part.number == 1:
            key = text(data, part)
        elif part.number == 2:
            value = text(data, part)
    return key, value


def place(entries: Mapping[str, str], size: int) -> tuple[str, int, int]:
    """(file, offset, end) of a weight that lies outside the graph."""
    name, offset, length = entries.get("location", ""), entries.get("offset", "0"), entries.get("length", str(size))
    for number in (offset, length):
        if not (number.isascii() and number.isdigit() and len(number) < 16):
            raise WireError(f"a weight's offset or length is {number[:40]!a}")
    if int(length) != size:
        raise WireError(f"a weight of {size} bytes is said to have {length}")
    return name, int(offset), int(offset) + size


def check_places(found: Found, graph: PurePosixPath, files: Mapping[str, int]) -> None:
    """Weights lie in listed files beside the graph, within them, and never on each other."""
    folder = graph.parent
    before: tuple[str, int, int] = ("", 0, 0)
    for name, start, end in sorted(found.places):
        if "/" in name or "\\" in name or name in ("", ".", "..", graph.name):
            raise WireError(f"it reads its weights from {name[:80]!a}, they belong beside it")
        if str(folder / name) not in files:
            raise WireError(f"it reads its weights from {name[:80]!a}, which is not listed with size and SHA-256")
        if end > files[str(folder / name)]:
            raise WireError(f"a weight ends at byte {end} of {name[:80]!a}, which is shorter")
        if name == before[0] and start < before[2] and end > start:
            raise WireError(f"two weights share bytes of {name[:80]!a}")
        before = (name, start, end) if end > start else before
