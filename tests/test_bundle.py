"""Damaged and hostile bundles are refused before any parser sees their files; verify finds every change."""

import json
from pathlib import Path

import numpy as np
import pytest
from qsched_runtime import BundleError, Coefficients, Sampler
from qsched_runtime import manifest as manifests

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.bundle.opened import open_bundle
from qsched_edge.bundle.verify import verify
from qsched_edge.bundle.write import bundle_bytes, write_schedule


def edit(folder: Path, change) -> None:  # type: ignore[no-untyped-def]
    raw = json.loads((folder / "qsched.json").read_text())
    change(raw)
    (folder / "qsched.json").write_text(json.dumps(raw))


def test_a_sound_bundle_verifies(copy: Path) -> None:
    manifest = verify(copy)
    held = sum(p.stat().st_size for p in copy.rglob("*") if p.is_file() and p.name != "qsched.json")
    assert bundle_bytes(manifest) == held


def test_every_file_is_guarded_against_a_changed_byte(copy: Path) -> None:
    for file in manifests.read(copy).files:
        path = copy / file.path
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(BundleError, match="SHA-256"):
            Sampler.from_pretrained(copy)
        path.write_bytes(whole)
    Sampler.from_pretrained(copy)


def test_truncated_external_data_is_refused(copy: Path) -> None:
    data = copy / "unet/model.onnx_data"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"unet/model\.onnx_data has \d+ bytes instead of"):
        Sampler.from_pretrained(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "vae_decoder/model.onnx").unlink()
    with pytest.raises(BundleError, match=r"vae_decoder/model\.onnx is missing"):
        Sampler.from_pretrained(copy)


@pytest.mark.parametrize("path", ["../outside.onnx", "/etc/passwd", "unet/../../x", "C:\\x", "", "unet\\model.onnx"])
def test_paths_that_leave_the_bundle_are_refused(copy: Path, path: str) -> None:
    def change(raw: dict) -> None:
        raw["components"]["unet"]["file"] = path
        raw["files"].append({"path": path, "bytes": 1, "sha256": "0" * 64})

    edit(copy, change)
    with pytest.raises(BundleError, match="leaves the bundle"):
        Sampler.from_pretrained(copy)


def test_symbolic_links_are_refused(copy: Path, tmp_path: Path) -> None:
    model = copy / "unet/model.onnx"
    model.rename(tmp_path / "elsewhere.onnx")
    model.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="symbolic link"):
        Sampler.from_pretrained(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(format="zip"), "use a matching runtime"),
        (lambda raw: raw.update(version=99), "use a matching runtime"),
        (lambda raw: raw.pop("latents"), "malformed"),
        (lambda raw: raw["schedules"]["4"].update(c_x=[1.0]), r"\[1, 4, 1\] steps"),
        (lambda raw: raw["schedules"]["4"].update(a=[1.0, "x", 1.0, 1.0]), "malformed"),
        (lambda raw: raw["noise"].update(algorithm="philox"), "noise algorithm 'philox'"),
        (lambda raw: raw["components"]["unet"].update(file="unet/other.onnx"), "not listed"),
        (lambda raw: raw["components"]["unet"]["inputs"].update(sample={"magic": 1}), "source"),
    ],
)
def test_broken_manifests_are_refused(copy: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    edit(copy, change)
    with pytest.raises(BundleError, match=message):
        Sampler.from_pretrained(copy)("x")


def test_a_folder_without_manifest_and_a_foreign_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        manifests.read(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no qsched\.json"):
        manifests.read(tmp_path)
    for text in ("not json", "[1]", "\xff"):
        (tmp_path / "qsched.json").write_text(text, "latin-1")
        with pytest.raises(BundleError):
            manifests.read(tmp_path)


def test_a_bias_makes_version_2_and_is_added_to_each_channel(copy: Path) -> None:
    before = Sampler.from_pretrained(copy)("a red apple", seed=3).latents
    bias = np.zeros((4, 4))
    bias[3] = [0.0, 0.01, -0.02, 0.03]  # of the last step, so that nothing else changes
    stock = open_bundle(copy).stock(4)
    write_schedule(copy, LearnedSchedule(stock.table, Coefficients(np.ones(4), np.ones(4), bias)), {})
    assert verify(copy).raw["version"] == 2
    after = Sampler.from_pretrained(copy)("a red apple", seed=3).latents
    expected = before + bias[3].astype(np.float32)[:, None, None]
    assert (after == expected).all()
    write_schedule(copy, stock, {})
    manifest = verify(copy)
    assert (manifest.raw["version"], "bias" in manifest.raw["schedules"]["4"]) == (1, False)
    assert (Sampler.from_pretrained(copy)("a red apple", seed=3).latents == before).all()


def test_a_bias_in_a_version_1_bundle_is_found(copy: Path) -> None:
    edit(copy, lambda raw: raw["schedules"]["4"].update(bias=[0.0, 0.0, 0.0, 0.1]))
    with pytest.raises(BundleError, match="is version 1 but its schedules are not"):
        verify(copy)


def test_verify_finds_strays_and_a_changed_table(copy: Path) -> None:
    (copy / "unet/extra.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"unet/extra\.bin"):
        verify(copy)
    (copy / "unet/extra.bin").unlink()
    edit(copy, lambda raw: raw["schedules"]["4"]["a"].__setitem__(0, 0.5))
    with pytest.raises(BundleError, match="fingerprint"):
        verify(copy)
