"""Changes that make a bundle harmful, each with what its refusal says, and what a refusal has to be like."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from qsched_runtime import BundleError, Sampler
from qsched_runtime.schedule import COLUMNS

Raw = dict[str, Any]


def write(folder: Path, raw: Raw) -> None:
    (folder / "qsched.json").write_text(json.dumps(raw))


def read(folder: Path) -> Raw:
    return dict(json.loads((folder / "qsched.json").read_text()))


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and what qsched.json says of it: its author is who hashed it."""
    (folder / name).write_bytes(data)
    raw = read(folder)
    listed = [f for f in raw["files"] if f["path"] == name]
    for file in listed or raw["files"][:0]:
        file.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if not listed:
        raw["files"].append({"path": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    write(folder, raw)


def refused(folder: Path, match: str, opens: Callable[[Path], Any] = Sampler.from_pretrained) -> str:
    """The message of the BundleError that opening `folder` raises: one printable line, soon."""
    started = time.process_time()
    with pytest.raises(BundleError, match=match) as caught:
        opens(folder)
    one_clear_line(caught.value)
    assert time.process_time() - started < 5
    return str(caught.value)


def one_clear_line(error: Exception) -> None:
    assert 10 < len(str(error)) <= 300
    assert str(error).isprintable()


def stock_of(raw: Raw, steps: str) -> Raw:
    kept = (*COLUMNS, "init_noise_sigma")
    return {name: value for name, value in raw["schedules"][steps].items() if name in kept}


def shift_of(mu: float) -> Raw:
    return {"mu": mu, "lines": [{"latents": 4096, "slope": 0.0, "intercept": 0.0}]}


MANIFESTS: dict[str, tuple[Callable[[Raw], Any], str]] = {
    "huge sigma": (lambda r: r["schedules"]["4"].update(init_noise_sigma=1e30), "init_noise_sigma is out of range"),
    "text for a number": (lambda r: r["latents"].update(scaling_factor="0.18"), "scaling_factor must be number"),
    "true for a number": (lambda r: r["latents"].update(channels=True), "channels must be integer"),
    "no scaling": (lambda r: r["latents"].update(scaling_factor=0), "scaling_factor is out of range"),
    "gigantic latents": (lambda r: r["latents"].update(height=2**40), "height is out of range"),
    "large latents": (lambda r: r["latents"].update(height=1024, width=1024, pixels_per_latent=64), "larger than any"),
    "negative channels": (lambda r: r["latents"].update(channels=-4), "channels is out of range"),
    "unknown guidance": (lambda r: r["guidance"].update(kind="strong"), "guidance.kind must be one of"),
    "step key 04": (lambda r: r["schedules"].update({"04": r["schedules"].pop("4")}), "the key '04'"),
    "step key -4": (lambda r: r["schedules"].update({"-4": r["schedules"].pop("4")}), "the key '-4'"),
    "step key 3": (lambda r: r["schedules"].update({"3": r["schedules"]["4"]}), "schedule of 3 steps has 4"),
    "default step": (lambda r: r.update(default_steps=11), "no schedule for the default of 11"),
    "stock of other steps": (lambda r: r["schedules"]["4"].update(stock=stock_of(r, "2")), "stock schedule of 4 steps"),
    "a million steps": (lambda r: r["schedules"]["4"].update(a=[0.0] * 100_000), "length is out of range"),
    "ten thousand rows": (lambda r: r["schedules"]["4"].update(c_x=[[1.0] * 300] * 4), "c_x"),
    "channels": (lambda r: r["schedules"]["4"].update(c_x=[[1.0] * 3] * 4), "c_x has 3 channels, the latents 4"),
    "ragged rows": (lambda r: r["schedules"]["4"].update(c_x=[[1.0], [1.0, 1.0], 1.0, 1.0]), "malformed"),
    "one file often": (lambda r: r.update(files=r["files"] * 500), "length is out of range"),
    "one file twice": (lambda r: r["files"].append(r["files"][0]), "are one file on some systems"),
    "by case": (lambda r: r["files"].append({**r["files"][0], "path": r["files"][0]["path"].upper()}), "are one file"),
    "unknown key": (lambda r: r.update(code="x"), "unknown key 'code'"),
    "unknown key within": (lambda r: r["latents"].update(extra=1), "latents has the unknown key 'extra'"),
    "no backbone": (lambda r: r.update(backbone="other"), "the backbone 'other' is none of the components"),
    "no tokenizer": (
        lambda r: r["components"]["text_encoder"]["inputs"].update(input_ids={"tokenizer": "other"}),
        "reads the tokenizer 'other'",
    ),
    "mask of no tokenizer": (
        lambda r: r["components"]["text_encoder"]["inputs"].update(input_ids={"attention_mask": "other"}),
        "reads the tokenizer 'other'",
    ),
    "huge shift": (lambda r: r["schedules"]["4"].update(shift=shift_of(1e9)), "mu is out of range"),
    "shift of no flow": (
        lambda r: r["schedules"]["4"].update(shift=shift_of(1.0), start_noise=[14.0, 7.0, 3.0, 1.0]),
        "must have start_noise in 0..1",
    ),
    "future output": (
        lambda r: r["components"]["unet"]["inputs"].update(encoder_hidden_states={"outputs": ["unet.out_sample"]}),
        "which no text encoder before it gives",
    ),
    "zeros": (lambda r: r["components"]["unet"]["inputs"].update(sample={"zeros": [4096] * 4}), "reads zeros of shape"),
    "wide embedding": (
        lambda r: r["components"]["unet"]["inputs"].update(timestep_cond={"guidance_embedding": 10**9}),
        "unknown source",
    ),
    "other input": (
        lambda r: r["components"]["unet"]["inputs"].update(another="timestep"),
        "has other inputs or outputs than",
    ),
    "length": (lambda r: r["tokenizers"]["tokenizer"].update(length=10**9), "length is out of range"),
    "no first token": (lambda r: r["tokenizers"]["tokenizer"].update(bos_id=-1), "has the bos_id -1"),
    "controls": (lambda r: r["components"]["unet"].update(file="unet/\x1b[2Jx\n\0"), "no plain name"),
    "long": (lambda r: r["components"]["unet"].update(file="x/" * 2000), "leaves the bundle"),
    "list": (lambda r: r.update(calibration=[]), "calibration must be object"),
    "a deep record": (lambda r: r["calibration"].update({"4": deep(100)}), "nested more than"),
}


def deep(levels: int) -> Raw:
    found: Raw = {}
    for _ in range(levels):
        found = {"x": found}
    return found


NO_JSON: dict[bytes, str] = {
    b'{"format": "qsched-bundle", "format": "qsched-bundle"}': "'format' stands twice",
    b'{"format": NaN}': "NaN is no number",
    b'{"format": -Infinity}': "no number",
    b'{"format": 1e999}': "larger than float64",
    b'{"format": "\\ud800"}': "surrogate",
    b'{"format": ' + b"[" * 5_000 + b"]" * 5_000 + b"}": "malformed",
    b'{"format": ' + b"[" * 300_000: "more arrays and objects",
    b'{"format": [' + b"0," * 700_000 + b"0]}": "larger than any bundle needs",
    b'{"format": "' + b"x" * 5_000_000 + b'"}': "has more than 4194304 bytes",
    b'{"format": ' + b"9" * 100_000 + b"}": "malformed",
    b"[1, 2]": "use a matching runtime",
    b"\xff\xfe{}": "malformed",
    b"": "malformed",
}


def graph_of(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "unet/model.onnx", load_external_data=False)


def outside(model: onnx.ModelProto, **place: str) -> None:
    """Move a weight's data: the first that lies outside the graph."""
    tensor = next(t for t in model.graph.initializer if t.external_data)
    for entry in tensor.external_data:
        entry.value = place.get(entry.key, entry.value)


def append(model: onnx.ModelProto, operator: str, domain: str = "", **attributes: Any) -> None:
    name = f"unused{len(model.graph.node)}"
    model.graph.node.append(helper.make_node(operator, ["sample"], [name], domain=domain, **attributes))


def constant_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("wide", TensorProto.INT64, [2], [2**20, 2**20]))
    model.graph.node.append(helper.make_node("Expand", ["timestep", "wide"], ["unused"]))


def sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))


def claims(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="big", data_type=1, dims=[2**30, 2**3]))


def in_attribute(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="c", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="model.onnx_data")
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def shared(model: onnx.ModelProto) -> None:
    first = next(t for t in model.graph.initializer if t.external_data)
    model.graph.initializer.add().CopyFrom(first)
    model.graph.initializer[-1].name = "twin"


BODY = helper.make_graph([], "body", [], [])


GRAPHS: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "parent": (lambda m: outside(m, location="../../secret"), "they belong beside it"),
    "absolute": (lambda m: outside(m, location="/etc/passwd"), "they belong beside it"),
    "memory": (lambda m: outside(m, location="*/_ORT_MEM_ADDR_/*"), "they belong beside it"),
    "long name": (lambda m: outside(m, location="x" * 2000), "no name"),
    "unlisted": (lambda m: outside(m, location="other_data"), "not listed"),
    "past the end": (lambda m: outside(m, offset="99999999999"), "which is shorter"),
    "negative": (lambda m: outside(m, offset="-8"), "offset or length"),
    "padded": (lambda m: outside(m, length=" 64"), "offset or length"),
    "length": (lambda m: outside(m, length="1"), "is said to have 1"),
    "shared": (shared, "share bytes"),
    "attribute": (in_attribute, "or where none may"),
    "loop": (lambda m: append(m, "Loop", body=BODY), "ai.onnx.Loop, which this project does not emit"),
    "if": (lambda m: append(m, "If", then_branch=BODY, else_branch=BODY), "ai.onnx.If"),
    "hidden graph": (lambda m: append(m, "Identity", body=BODY), "a graph within a node"),
    "domain": (lambda m: append(m, "Run", "com.evil"), "com.evil.Run"),
    "nodes": (lambda m: [append(m, "Identity") for _ in range(51_000)], "more than 50000 nodes"),
    "expand": (constant_shape, "Expand to the shape"),
    "sparse": (sparse, "sparse weights"),
    "claims": (claims, "fewer values than its shape asks for"),
    "texts": (lambda m: m.graph.initializer.append(TensorProto(name="t", data_type=8, dims=[1])), "data type 8"),
    "functions": (
        lambda m: m.functions.append(helper.make_function("com.x", "F", [], [], [], [])),
        "functions of its own",
    ),
    "no outputs": (lambda m: m.graph.ClearField("output"), "no graph with outputs"),
    "another output": (lambda m: m.graph.output.append(m.graph.output[0]), "other inputs or outputs"),
}
