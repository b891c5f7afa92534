"""Bundles that were made to harm: every one is one clear error, and nothing of them reaches a library first."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from qsched_runtime import BundleError, QSchedError, Sampler
from qsched_runtime import manifest as manifests
from qsched_runtime.files import check_path
from qsched_runtime.inspection import inspect_graph
from qsched_runtime.operators import OPERATORS
from qsched_runtime.sampler import check_graphs
from qsched_runtime.schedule import COLUMNS
from qsched_runtime.strict import MANIFEST, parse_json
from qsched_runtime.tokenize import load_tokenizer

from qsched_edge.bundle.verify import verify

Raw = dict[str, Any]


@pytest.fixture
def copy(bundles: dict[int, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles[4], tmp_path / "bundle"))


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


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests_are_held_to_their_schema(case: str, copy: Path) -> None:
    change, message = MANIFESTS[case]
    raw = read(copy)
    change(raw)
    write(copy, raw)
    refused(copy, message)


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


@pytest.mark.parametrize(("text", "message"), NO_JSON.items())
def test_what_is_no_sane_json_is_refused(text: bytes, message: str, copy: Path) -> None:
    (copy / "qsched.json").write_bytes(text)
    refused(copy, message, manifests.read)


@pytest.mark.parametrize(
    "path",
    ["..", ".", "a/../b", "/a", "//a", "a//b", "./a", "a/", "C:x", "a\\b", "a/.. /b", "a.", "a /b", "con", "a/NUL.onnx",
     "a\0b", "a\nb", "a\u202eb", "a/" * 9 + "a", "x" * 300, ""],
)  # fmt: skip
def test_paths_that_mean_something_else_somewhere_are_refused(path: str) -> None:
    with pytest.raises(BundleError):
        check_path(path)


def test_files_that_are_not_plain_are_refused(copy: Path, tmp_path: Path) -> None:
    data, kept = copy / "unet/model.onnx_data", tmp_path / "kept"
    data.rename(kept)
    for make in (data.symlink_to, data.hardlink_to):
        make(kept)
        refused(copy, "a symbolic link|a hard link")
        data.unlink()
    os.mkfifo(data)
    refused(copy, "no plain file")
    data.unlink()
    data.mkdir()
    refused(copy, "no plain file")
    data.rmdir()
    refused(copy, "is missing")
    kept.rename(data)
    Sampler.from_pretrained(copy)
    (copy / "qsched.json").rename(kept)
    (copy / "qsched.json").symlink_to(kept)
    refused(copy, "symbolic link")


def test_verify_finds_links_and_devices_that_nobody_listed(copy: Path, tmp_path: Path) -> None:
    for make in (lambda p: p.symlink_to(tmp_path), lambda p: os.mkfifo(p), lambda p: p.symlink_to("nowhere")):
        make(copy / "unet/stray")
        refused(copy, "'unet/stray' is in", verify)
        (copy / "unet/stray").unlink()
    verify(copy)


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b"3", b'{"network_output": 4}', b'{"network_output": ["x"]}', b"{", b"\xff"]
)
def test_a_malformed_self_test_is_refused(text: bytes, copy: Path) -> None:
    put(copy, "selftest/golden.json", text)
    refused(copy, "golden.json is malformed|self-test: noise_sha256 is", verify)


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


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_are_read_before_onnxruntime_reads_them(case: str, copy: Path) -> None:
    change, message = GRAPHS[case]
    model = graph_of(copy)
    change(model)
    put(copy, "unet/model.onnx", model.SerializeToString())
    refused(copy, message)


def test_an_entry_written_value_first_is_read_too(copy: Path) -> None:
    """A check of the bytes' pattern missed it: the fields of a message come in any order."""
    data = (copy / "unet/model.onnx").read_bytes()
    usual, value = b"\x0a\x08location\x12\x0fmodel.onnx_data", b"\x12\x0f../secret_data1\x0a\x08location"
    assert len(usual) == len(value)
    assert usual in data
    put(copy, "unet/model.onnx", data.replace(usual, value, 1))
    refused(copy, "they belong beside it")


def test_a_graph_of_ones_own_may_have_any_operator(copy: Path) -> None:
    model = graph_of(copy)
    append(model, "HardSigmoid")
    append(model, "ThresholdedRelu", alpha=1.0)
    put(copy, "unet/model.onnx", model.SerializeToString())
    refused(copy, "ai.onnx.ThresholdedRelu")
    Sampler.from_pretrained(copy, trust="any")


def test_unlisted_weights_are_never_loaded(copy: Path) -> None:
    raw = read(copy)
    raw["files"] = [f for f in raw["files"] if f["path"] != "unet/model.onnx_data"]
    write(copy, raw)
    refused(copy, "not listed with size and SHA-256")


def test_pictures_that_are_not_numbers_are_refused(copy: Path) -> None:
    model = graph_of(copy)
    (out,) = model.graph.output
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    model.graph.initializer.append(zero)
    last = next(n for n in model.graph.node if out.name in n.output)
    last.output[list(last.output).index(out.name)] = "before"
    model.graph.node.append(helper.make_node("Mul", ["before", "zero"], ["nothing"]))
    model.graph.node.append(helper.make_node("Div", ["nothing", "zero"], [out.name]))
    put(copy, "unet/model.onnx", model.SerializeToString())
    refused(copy, "not finite", lambda folder: Sampler.from_pretrained(folder)("x"))


def test_an_output_of_another_shape_is_refused(copy: Path) -> None:
    raw = read(copy)
    raw["latents"]["pixels_per_latent"] = 4
    write(copy, raw)
    refused(copy, r"vae_decoder gave \[1, 3, 16, 16\] instead of", lambda folder: Sampler.from_pretrained(folder)("x"))


@pytest.fixture(scope="module")
def graph_bytes(bundles: dict[int, Path]) -> tuple[bytes, dict[str, int]]:
    folder = bundles[4]
    files = {f.path: f.bytes for f in manifests.read(folder).files}
    return (folder / "text_encoder/model.onnx").read_bytes(), files


def damaged(data: st.DataObject, whole: bytes) -> bytes:
    """A few bytes of it replaced, left out or put in."""
    found = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, max(0, len(found) - 1)))
        found[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    return bytes(found)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_graphs_are_refused_or_harmless(graph_bytes: tuple[bytes, dict[str, int]], data: st.DataObject) -> None:
    """What passes is, by onnx's own parser, of known operators with all its weights in listed files."""
    whole, files = graph_bytes
    mutated = damaged(data, whole)
    try:
        inspect_graph(mutated, "text_encoder/model.onnx", files)
    except BundleError as error:
        one_clear_line(error)
        return
    try:
        model = onnx.ModelProto.FromString(mutated)
    except DecodeError:  # onnxruntime refuses it as well
        return
    for node in model.graph.node:
        assert node.op_type in OPERATORS["" if node.domain == "ai.onnx" else node.domain]
        assert not any(a.HasField("g") or a.graphs for a in node.attribute)
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert not place or place["location"] == "model.onnx_data"
        assert not place or int(place["offset"]) + int(place["length"]) <= files["text_encoder/model.onnx_data"]
        assert place or tensor.data_location == 0


VALUES = st.sampled_from(
    [None, True, -1, 0, 1, 2**31, 2**63, 10**40, -0.0, 1e308, 0.5, "", "x", "../x", "\x1b[31m", "\n", [], [[]], {},
     {"a": {}}, "x" * 5_000, [0] * 2_000, "e\u0301", "\u202e"]
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in [(value, key), *places(item)]]


def mutate(data: st.DataObject, raw: Any) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(raw)))
        action = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            container[key] = deepcopy(data.draw(VALUES))
        elif action == "remove" and len(places(raw)) > 1:
            del container[key]
        elif isinstance(container, dict):
            container[data.draw(st.sampled_from(["x", "4", "", "a" * 300]))] = deepcopy(data.draw(VALUES))
        else:
            container.append(deepcopy(data.draw(VALUES)))
        if not places(raw):
            return


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_manifests_are_refused_or_sound(
    bundles: dict[int, Path], tmp_path_factory: Any, data: st.DataObject
) -> None:
    raw = read(bundles[4])
    mutate(data, raw)
    folder = tmp_path_factory.mktemp("mutated")
    write(folder, raw)
    try:
        manifest = manifests.read(folder)
        check_graphs(bundles[4], manifest)
    except BundleError as error:
        one_clear_line(error)
        return
    for steps, table in manifest.schedules.items():
        assert len(table) == steps
        assert np.isfinite(table.folded(manifest.coefficients[steps]).a).all()
    assert all((folder / f.path).resolve().is_relative_to(folder.resolve()) for f in manifest.files)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_tokenizers_are_refused_or_tokenize(
    bundles: dict[int, Path], tmp_path_factory: Any, data: st.DataObject
) -> None:
    spec = manifests.read(bundles[4]).tokenizers["tokenizer"]
    document = json.loads((bundles[4] / spec.file).read_text("utf-8"))
    small = {**document, "model": {**document["model"], "merges": document["model"]["merges"][:20]}}
    small["model"]["vocab"] = dict(list(document["model"]["vocab"].items())[:40])
    mutate(data, small)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(small))
    try:
        ids = load_tokenizer(path, spec)("a red apple <|endoftext|> caf\u00e9")
    except BundleError as error:
        one_clear_line(error)
        return
    assert len(ids) == spec.length
    assert all(type(i) is int and 0 <= i < 2**31 for i in ids)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_bundles_draw_or_are_one_error(
    bundles: dict[int, Path], tmp_path_factory: Any, data: st.DataObject
) -> None:
    """The whole way, files included."""
    folder = Path(shutil.copytree(bundles[4], tmp_path_factory.mktemp("whole") / "bundle"))
    name = data.draw(
        st.sampled_from(["qsched.json", "tokenizer/tokenizer.json", "unet/model.onnx", "unet/model.onnx_data"])
    )
    if name == "qsched.json":
        raw = read(folder)
        mutate(data, raw)
        write(folder, raw)
    else:
        put(folder, name, damaged(data, (folder / name).read_bytes()))
    try:
        output = Sampler.from_pretrained(folder)("a red apple")
    except QSchedError as error:
        one_clear_line(error)
        return
    assert np.isfinite(output.latents).all()


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader_of_json(data: bytes) -> None:
    try:
        parse_json(data, MANIFEST, "qsched.json")
    except BundleError as error:
        one_clear_line(error)
