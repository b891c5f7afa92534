"""Bundles that were made to harm: every one is one clear error, and nothing of them reaches a library first."""

import os
from pathlib import Path

import pytest
from hostile import GRAPHS, MANIFESTS, NO_JSON, append, graph_of, put, read, refused, write
from onnx import TensorProto, helper
from qsched_runtime import BundleError, Sampler
from qsched_runtime import manifest as manifests
from qsched_runtime.files import check_path

from qsched_edge.bundle.verify import verify


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests_are_held_to_their_schema(case: str, copy: Path) -> None:
    change, message = MANIFESTS[case]
    raw = read(copy)
    change(raw)
    write(copy, raw)
    refused(copy, message)


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
