"""Good files with something changed at random: refused with one clear line, or harmless."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hostile import one_clear_line, put, read, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qsched_runtime import BundleError, QSchedError, Sampler
from qsched_runtime import manifest as manifests
from qsched_runtime.inspection import inspect_graph
from qsched_runtime.operators import OPERATORS
from qsched_runtime.sampler import check_graphs
from qsched_runtime.strict import MANIFEST, parse_json
from qsched_runtime.tokenize import load_tokenizer


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
