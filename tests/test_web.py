"""The web runtime against the Python runtime: the same noise and token ids, and pictures within 2 of 255.

`make test-web` installs what these tests need and runs them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from conftest import ROOT
from qsched_runtime import Sampler
from qsched_runtime.noise import TorchNoise
from test_families import FAMILIES, saved_miniature

from qsched_edge.choices import Choices
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings

pytestmark = pytest.mark.web
WEB = ROOT / "runtimes/web"
PROMPT = "a red apple 🍎, Noto style"
SEED = 11
NODE = os.environ.get("NODE", "node")


def node(script: str, job: dict[str, Any], timeout: int = 300) -> dict[str, Any]:
    """What a script of runtimes/web/test prints for a job."""
    command = [NODE, str(WEB / "test" / script)]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@dataclass(frozen=True)
class Case:
    """A bundle, and what Python draws of it."""

    name: str
    folder: Path
    options: dict[str, Any]
    images: np.ndarray
    ids: dict[str, list[int]]

    @property
    def job(self) -> dict[str, Any]:
        return {"name": self.name, "path": str(self.folder), "prompt": PROMPT, "options": self.options}


def case(name: str, folder: Path, negative: bool = False) -> Case:
    """Drawn by Python; `negative` adds a negative prompt where the bundle is guided."""
    sampler = Sampler.from_pretrained(folder, threads=1)
    request = {"negative_prompt": "blurred"} if negative else {}
    images = sampler(PROMPT, seed=SEED, **request).images
    options = {"seed": SEED, **({"negativePrompt": "blurred"} if negative else {})}
    return Case(name, folder, options, images, {n: t(PROMPT) for n, t in sampler.tokenizers.items()})


@pytest.fixture(scope="session")
def cases(emoji_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """The embedded model at 4 bits, and each family's miniature."""
    folder = tmp_path_factory.mktemp("web")
    found = [case("emoji", emoji_bundle)]
    for name in FAMILIES:
        spec = saved_miniature(name, folder / name)
        settings = ExportSettings(4, choices=Choices(encoder=name == "sd-turbo"))
        bundle = export(spec, settings, folder / name / "w4", quiet=True)
        found.append(case(name, bundle, negative=name == "sd3-turbo"))
    return found


def check_drawn(drawn: dict[str, Any], cases: list[Case], label: str) -> None:
    """Noise and ids are identical, pictures within 2 of 255; prints the largest difference of each."""
    noise = hashlib.sha256(TorchNoise(SEED).randn((4096,)).tobytes()).hexdigest()
    for expected in cases:
        found = drawn[expected.name]
        assert found["noise"] == noise
        assert found["ids"] == expected.ids
        pixels = [np.frombuffer(base64.b64decode(data), np.uint8) for data in found["pictures"]]
        pictures = np.stack([p.reshape(h, w, 4)[..., :3] for p, (w, h) in zip(pixels, found["sides"], strict=True)])
        assert pictures.shape == expected.images.shape
        assert expected.images.std() > 5, "a flat picture would agree with anything"
        difference = np.abs(pictures.astype(int) - expected.images).max()
        print(f"{label} {expected.name}: {difference} of 255, {found['seconds']:.1f} s")
        assert difference <= 2, f"{label}: {expected.name} differs by {difference}"


@pytest.mark.parametrize("device", ["cpu", "wasm"])
def test_node_draws_what_python_draws(device: str, cases: list[Case]) -> None:
    drawn = node("draw.mjs", {"device": device, "threads": 1, "bundles": [c.job for c in cases]})
    check_drawn(drawn, cases, f"node {device}")


@pytest.mark.parametrize(("device", "threads"), [("wasm", 1), ("wasm", 2), ("auto", 1)])
def test_pages_draw_what_python_draws(device: str, threads: int, cases: list[Case]) -> None:
    """ "auto" finds no adapter or a software one here: WASM is used, and a notice says so."""
    chromium = shutil.which("chromium")
    assert chromium, "apt-get install chromium"
    job = {"device": device, "threads": threads, "chromium": chromium, "bundles": [c.job for c in cases]}
    drawn = node("chromium.mjs", job, timeout=600)
    check_drawn(drawn, cases, f"page {device} {threads}")
    assert drawn["isolated"]
    for expected in cases:
        seen = drawn[expected.name]
        assert seen["ready"] == "ready"
        assert seen["steps"] > 0
        assert seen["downloaded"]["loaded"] == seen["downloaded"]["total"]
        assert seen["device"] == "webgpu" or device == "wasm" or any("webgpu" in n.lower() for n in drawn["notices"]), (
            "a fallback without a word"
        )


def listing(folder: Path, files: dict[str, bytes]) -> bytes:
    """qsched.json with the sizes and hashes of files that its author has changed."""
    raw = hostile.read(folder)
    for file in raw["files"]:
        if data := files.get(file["path"]):
            file.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return json.dumps(raw).encode()


def hostile_files(folder: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The Python runtime's corpus of manifests, texts and graphs."""
    for name, (change, _) in hostile.MANIFESTS.items():
        raw = hostile.read(folder)
        change(raw)
        yield f"manifest {name}", {"qsched.json": json.dumps(raw).encode()}
    for i, text in enumerate(hostile.NO_JSON):
        yield f"text {i}", {"qsched.json": text}
    for name, (alter, _) in hostile.GRAPHS.items():
        model = hostile.graph_of(folder)
        alter(model)
        files = {"unet/model.onnx": model.SerializeToString()}
        yield f"graph {name}", {**files, "qsched.json": listing(folder, files)}
    for size in (0, 1, 100):
        files = {"unet/model.onnx": (folder / "unet/model.onnx").read_bytes()[:size] or b"\xff"}
        yield f"graph of {size} bytes", {**files, "qsched.json": listing(folder, files)}
    for path in ("tokenizer/tokenizer.json", "unet/model.onnx", "unet/model.onnx_data", "selftest/golden.json"):
        data = bytearray((folder / path).read_bytes())
        data[len(data) // 2] ^= 1
        yield f"one bit of {path}", {path: bytes(data)}
        yield f"the end of {path}", {path: bytes(data[:-1])}
    yield "a stray file", {"unet/stray": b"x"}


def linked(folder: Path, out: Path) -> Iterator[tuple[str, Path]]:
    """Folders with files that are not plain."""
    ways: dict[str, Callable[[Path, Path], Any]] = {
        "symbolic link": lambda path, kept: path.symlink_to(kept),
        "hard link": lambda path, kept: path.hardlink_to(kept),
        "pipe": lambda path, kept: os.mkfifo(path),
        "folder": lambda path, kept: path.mkdir(),
        "nothing": lambda path, kept: None,
    }
    for name, make in ways.items():
        for file in ("unet/model.onnx_data", "qsched.json"):
            copy = Path(shutil.copytree(folder, out / name.replace(" ", "-") / file.replace("/", "-")))
            kept = Path(shutil.move(copy / file, f"{copy}.kept"))
            make(copy / file, kept)
            yield f"{name} for {file}", copy


def test_hostile_bundles_are_refused(bundles: dict[int, Path], tmp_path: Path) -> None:
    cases = [
        {"name": name, "files": {path: base64.b64encode(data).decode() for path, data in files.items()}}
        for name, files in hostile_files(bundles[4])
    ]
    folders = [{"name": name, "path": str(path)} for name, path in linked(bundles[4], tmp_path)]
    found = node("refuse.mjs", {"folder": str(bundles[4]), "cases": cases, "folders": folders})
    assert found.pop("good")["kind"] == "none"
    assert len(found) == len(cases) + len(folders) > 80
    wrong = {name: seen for name, seen in found.items() if seen["kind"] != "BundleError" or seen["seconds"] > 5}
    assert not wrong
    for seen in found.values():
        assert 10 < len(seen["message"]) <= 300
        assert seen["message"].isprintable()


def packed(folder: Path, out: Path, compression: int = zipfile.ZIP_STORED, stray: str = "") -> Path:
    """The bundle as one zip file."""
    with zipfile.ZipFile(out, "w", compression) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(folder))
        if stray:
            archive.writestr(stray, "x")
    return out


def test_every_way_to_load_gives_the_same_picture(bundles: dict[int, Path], tmp_path: Path) -> None:
    good = packed(bundles[4], tmp_path / "good.zip")
    (tmp_path / "cut.zip").write_bytes(good.read_bytes()[:-30])
    (tmp_path / "text.zip").write_bytes(b"x" * 1000)
    bad = [
        packed(bundles[4], tmp_path / "compressed.zip", zipfile.ZIP_DEFLATED),
        packed(bundles[4], tmp_path / "parent.zip", stray="../x"),
        packed(bundles[4], tmp_path / "stray.zip", stray="stray"),
        tmp_path / "cut.zip",
        tmp_path / "text.zip",
    ]
    job = {"folder": str(bundles[4]), "zip": str(good), "packed": [{"name": p.name, "path": str(p)} for p in bad]}
    found = node("ways.mjs", job)
    assert len(found["folder"]) == 64, found["folder"]
    ways = ("packed", "blob", "files", "folder by URL", "packed by URL", "packed by URL, in ranges")
    assert {found[way] for way in ways} == {found["folder"]}
    assert {found[path.name] for path in bad} == {"BundleError"}
    assert found["nothing"] == "BundleError"
    assert found["an unknown option"] == "RequestError"
    assert found["aborted while loading"] == found["aborted while drawing"] == "AbortError"
