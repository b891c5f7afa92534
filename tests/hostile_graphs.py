"""The corpus's weights and graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from hostile import GRAPHS, append, graph_of, put
from hostile_case import DATA, GRAPH, Case, changed, relocated, setting_of
from onnx import TensorProto, helper


def weights() -> Iterator[Case]:
    for key, values in {
        "offset": ("-1", "1e3", "0x10", " 0", "0 ", "99999999999999", "9" * 30, "", "\u0660", "None", "1.0"),
        "length": ("0", "1", "-64", "9" * 20, " 64", "+64", "1e9", "", "nan"),
        "location": (
            "other_data",
            "model.onnx",
            "../text_encoder/model.onnx_data",
            "*/_ORT_MEM_ADDR_/*",
            "x" * 5_000,
            "model.onnx_data\0",
            "MODEL.ONNX_DATA",
            "./model.onnx_data",
            "\ud7ff",
            "",
        ),
        "checksum2": ("x",),
        "basepath": ("/",),
    }.items():
        for value in values:
            yield Case("weights", f"{key} {value!a}"[:60], lambda f, k=key, v=value: relocated(f, **{k: v}))  # type: ignore[misc]
    yield Case("weights", "unlisted", changed(lambda r: r.update(files=[f for f in r["files"] if f["path"] != DATA])))
    for name, change in {
        "a shorter file, listed": lambda d: d[:-100],
        "an empty file, listed": lambda d: b"",
        "one byte, listed": lambda d: b"x",
    }.items():
        yield Case("weights", name, lambda f, c=change: put(f, DATA, c((f / DATA).read_bytes())))  # type: ignore[misc]
    yield Case("weights", "entries twice", lambda f: edited(f, doubled))
    yield Case("weights", "a place and bytes", lambda f: edited(f, with_bytes))
    yield Case("weights", "no place", lambda f: edited(f, placeless))


def edited(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = graph_of(folder)
    change(model)
    put(folder, GRAPH, model.SerializeToString())


def first_outside(model: onnx.ModelProto) -> TensorProto:
    return next(t for t in model.graph.initializer if t.external_data)


def doubled(model: onnx.ModelProto) -> None:
    first_outside(model).external_data.add(key="location", value="model.onnx_data")


def with_bytes(model: onnx.ModelProto) -> None:
    first_outside(model).raw_data = b"x" * 64


def placeless(model: onnx.ModelProto) -> None:
    del first_outside(model).external_data[:]


def constant(
    model: onnx.ModelProto, name: str, values: list[Any], kind: int = TensorProto.INT64, scalar: bool = False
) -> str:
    model.graph.initializer.append(helper.make_tensor(name, kind, [] if scalar else [len(values)], values))
    return name


def fed(operator: str, *inputs: Any, **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    """An operator whose result is an output of no use; inputs are names or the values of constants."""

    def change(model: onnx.ModelProto) -> None:
        names = [
            given if isinstance(given, str) else constant(model, f"given{i}", *given) for i, given in enumerate(inputs)
        ]
        model.graph.node.append(helper.make_node(operator, names, ["allocated"], **attributes))
        joined(model, "allocated")

    return change


def joined(model: onnx.ModelProto, name: str) -> None:
    """The graph's output depends on the value: nothing is left out as unused."""
    (out,) = model.graph.output
    last = next(n for n in model.graph.node if out.name in n.output)
    last.output[list(last.output).index(out.name)] = "before"
    axes = constant(model, "all_axes", [0])
    model.graph.node.append(helper.make_node("Cast", [name], ["as_float"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Reshape", ["as_float", constant(model, "flat", [-1])], ["flattened"]))
    model.graph.node.append(helper.make_node("ReduceMax", ["flattened", axes], ["largest"], keepdims=1))
    model.graph.node.append(helper.make_node("Add", ["before", "largest"], [out.name]))


def tower(model: onnx.ModelProto) -> None:
    """A value joined to itself 33 times."""
    before = "timestep"
    for i in range(33):
        model.graph.node.append(helper.make_node("Concat", [before, before], [f"twice{i}"], axis=0))
        before = f"twice{i}"
    joined(model, before)


INT, FLOAT = TensorProto.INT64, TensorProto.FLOAT


OPERATORS = (
    "Scan",
    "SequenceMap",
    "SequenceEmpty",
    "Optional",
    "OptionalGetElement",
    "RandomNormal",
    "Loop",
    "StringNormalizer",
    "TfIdfVectorizer",
    "NonZero",
    "NonMaxSuppression",
    "Unique",
    "If",
    "EyeLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "ImageDecoder",
    "CenterCropPad",
    "LSTM",
)
DOMAINS = (
    "com.microsoft",
    "ai.onnx.ml",
    "ai.onnx.training",
    "com.microsoft.nchwc",
    "org.pytorch.aten",
    "x" * 500,
)
ALLOCATING: dict[str, Callable[[onnx.ModelProto], object]] = {
    "ConstantOfShape": fed("ConstantOfShape", ([2**20, 2**20],)),
    "Expand": fed("Expand", "timestep", ([2**10, 2**10, 2**12],)),
    "Tile": fed("Tile", "timestep", ([2**40],)),
    "Reshape": fed("Reshape", "timestep", ([2**20, 2**20],)),
    "Range": fed("Range", ([0], INT, True), ([2**33], INT, True), ([1], INT, True)),
    "Range of floats": fed("Range", ([0.0], FLOAT, True), ([1e9], FLOAT, True), ([0.1], FLOAT, True)),
    "Pad": fed("Pad", "timestep", ([0, 2**33],)),
    "Resize by sizes": fed("Resize", "sample", "", "", ([1, 4, 2**17, 2**17],)),
    "Resize by scales": fed("Resize", "sample", "", ([1.0, 1.0, 1e5, 1e5], FLOAT)),
    "pads of a convolution": fed("AveragePool", "sample", kernel_shape=[1, 1], pads=[0, 0, 2**30, 2**30]),
    "output of a transposed convolution": fed(
        "ConvTranspose", "sample", "wide_kernel", output_shape=[2**16, 2**16], strides=[2, 2]
    ),
    "a tower": tower,
    "negative shape": fed("ConstantOfShape", ([-5, -7],)),
}


def sparse_graph(folder: Path) -> None:
    with (folder / GRAPH).open("r+b") as handle:
        handle.truncate(300 * 2**20)
    setting_of(folder, GRAPH, bytes=300 * 2**20)


def many_nodes(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["sample"], ["x"])
    model.graph.node.extend([node] * 300_000)


def many_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer.extend(TensorProto(name=f"w{i}", data_type=1, dims=[0]) for i in range(60_000))


def cycle(model: onnx.ModelProto) -> None:
    for a, b in (("round", "about"), ("about", "round")):
        model.graph.node.append(helper.make_node("Identity", [a], [b]))
    joined(model, "round")


def loose(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["nobody"], ["somebody"]))
    joined(model, "somebody")


def retype(model: onnx.ModelProto, kind: int) -> None:
    model.graph.input[0].type.tensor_type.elem_type = kind


ODD: dict[str, Callable[[onnx.ModelProto], object]] = {
    "300,000 nodes": many_nodes,
    "60,000 weights": many_weights,
    "a cycle": cycle,
    "an unknown input": loose,
    "no inputs": lambda m: m.graph.ClearField("input"),
    "opset 99": lambda m: setattr(m.opset_import[0], "version", 99),
    "no opset": lambda m: m.ClearField("opset_import"),
    "a far IR version": lambda m: setattr(m, "ir_version", 10**6),
    "training": lambda m: m.training_info.add(),
    "inputs of text": lambda m: retype(m, TensorProto.STRING),
    "inputs of complex numbers": lambda m: retype(m, TensorProto.COMPLEX64),
    "inputs of one axis": lambda m: m.graph.input[0].type.tensor_type.shape.dim.__delitem__(slice(1, None)),
    "a sequence for an input": lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.CopyFrom(
        TensorProto and m.graph.input[0].type.tensor_type
    ),
    "negative dimensions": lambda m: m.graph.initializer.append(TensorProto(name="n", data_type=1, dims=[-1, -1])),
    "a product of 2^64": lambda m: m.graph.initializer.append(TensorProto(name="n", data_type=1, dims=[2**32, 2**32])),
    "many axes": lambda m: m.graph.initializer.append(TensorProto(name="n", data_type=1, dims=[1] * 100)),
    "an attribute of a graph": lambda m: append(m, "Constant", value=helper.make_tensor("x", 8, [1], [b"x"])),
    "an output twice": lambda m: m.graph.node.append(m.graph.node[0]),
    "a weight twice": lambda m: m.graph.initializer.append(m.graph.initializer[0]),
    "long names": lambda m: append(m, "Identity" + "x" * 2_000),
}
FILES = {
    "empty": b"",
    "zeros": bytes(1000),
    "text": b"x" * 1000,
    "ones": b"\xff" * 1000,
    "a number without end": b"\x08" + b"\xff" * 20,
    "a length beyond": b"\x3a\xff\xff\xff\xff\x0f",
    "groups": b"\x3b" * 500,
}


def graphs() -> Iterator[Case]:
    for name, (change, _) in GRAPHS.items():
        yield Case("graphs", name, lambda f, c=change: edited(f, c))  # type: ignore[misc]
    for operator in OPERATORS:
        yield Case("graphs", operator, lambda f, o=operator: edited(f, lambda m: append(m, o)))  # type: ignore[misc]
    for domain in DOMAINS:
        yield Case(
            "graphs", f"domain {domain}"[:40], lambda f, d=domain: edited(f, lambda m: append(m, "Tokenizer", d))
        )  # type: ignore[misc]
    for name, change in ALLOCATING.items():
        yield Case("graphs", f"allocates: {name}", lambda f, c=change: edited(f, c))  # type: ignore[misc]
    for name, change in ODD.items():
        yield Case("graphs", name, lambda f, c=change: edited(f, c))  # type: ignore[misc]
    for name, data in FILES.items():
        yield Case("graphs", f"bytes: {name}", lambda f, d=data: put(f, GRAPH, d))  # type: ignore[misc]
    yield Case("graphs", "cut", lambda f: put(f, GRAPH, (f / GRAPH).read_bytes()[:-7]))
    yield Case("graphs", "two graphs", lambda f: put(f, GRAPH, (f / GRAPH).read_bytes() * 2))
    yield Case("graphs", "bytes behind it", lambda f: put(f, GRAPH, (f / GRAPH).read_bytes() + b"\x7f"))
    yield Case("graphs", "300 MB", sparse_graph)
