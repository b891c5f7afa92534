"""The page in headless Chromium, of a server and of a static site; `make test-web` installs what this needs."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qsched_runtime import Coefficients, Sampler
from test_serve import Gate, running
from test_web import WEB, listing, node

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.bundle.write import write_schedule
from qsched_edge.serve.published import find_onnxruntime_web
from qsched_edge.serve.site import write_site

pytestmark = pytest.mark.web
PROMPT = "a panda, noto style"
SOON = 20  # seconds from an empty browser to a picture, downloads from loopback included
ORT = WEB / "node_modules/onnxruntime-web"


def seen(url: object, where: str, **more: Any) -> dict[str, Any]:
    """What a browser sees that opens the page, types PROMPT and draws with seed 7; `cpu` is its processes' time."""
    chromium = shutil.which("chromium")
    assert chromium, "apt-get install chromium"
    found = node(
        "page.mjs", {"chromium": chromium, "url": str(url), "prompt": PROMPT, "seed": 7, "where": where, **more}
    )
    assert found["elsewhere"] == []
    return found


def pictures(found: dict[str, Any]) -> list[np.ndarray]:
    assert found["error"] == ""
    data = zip(found["pictures"], found["sides"], strict=True)
    return [np.frombuffer(base64.b64decode(text), np.uint8).reshape(h, w, 4)[..., :3] for text, (w, h) in data]


def same(found: np.ndarray, expected: np.ndarray, most: int = 2) -> bool:
    assert expected.std() > 5, "a flat picture would agree with anything"
    return found.shape == expected.shape and int(np.abs(found.astype(int) - expected).max()) <= most


@contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """A host of files that sets no header."""
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("where", ["server", "browser"])
def test_open_type_and_see_the_picture_that_python_draws(where: str, emoji_bundle: Path) -> None:
    """A machine that is busy with other things delays the clock but not the browser's own time."""
    sampler = Sampler.from_pretrained(emoji_bundle, threads=1)
    with running(emoji_bundle, sampler, ORT) as client:
        found = seen(client.base_url, where, axe=where == "server")
    (picture,) = pictures(found)
    print(f"drawn by the {where}: {found['seconds']:.1f} s, {found['cpu']:.1f} s of CPU in the browser")
    assert same(picture, sampler(PROMPT, seed=7).images[0], most=0 if where == "server" else 2)
    assert found["steps"] == 4
    assert found["status"] == "The picture is drawn"
    assert found["isolated"]
    assert "is not calibrated" in found["about"]
    assert found["faults"] == []
    assert found["violations"] == []
    assert min(found["seconds"], found["cpu"]) < SOON


def calibrated(bundle: Path, folder: Path) -> Path:
    """A copy whose four steps are at other timesteps and scaled."""
    copy = Path(shutil.copytree(bundle, folder))
    table = Sampler.from_pretrained(bundle, threads=1).manifest.schedules[4]
    moved = replace(table, timesteps=np.array([999.0, 700.0, 400.0, 100.0]))
    write_schedule(copy, LearnedSchedule(moved, Coefficients(np.full(4, 1.1), np.full(4, 0.9))), {})
    return copy


@pytest.mark.parametrize("where", ["server", "browser"])
def test_calibrated_stands_beside_stock(where: str, bundles: dict[int, Path], tmp_path: Path) -> None:
    folder = calibrated(bundles[4], tmp_path / "bundle")
    samplers = [Sampler.from_pretrained(path, threads=1) for path in (folder, bundles[4])]
    with running(folder, samplers[0], ORT) as client:
        found = seen(client.base_url, where, steps=4)
    assert found["names"] == ["Calibrated", "Stock schedule"]
    expected = [sampler(PROMPT, seed=7, num_inference_steps=4).images[0] for sampler in samplers]
    assert not same(*expected)
    assert all(map(same, pictures(found), expected))


def test_cancel_ends_the_drawing_and_the_page_draws_on(bundles: dict[int, Path]) -> None:
    gate = Gate(Sampler.from_pretrained(bundles[4], threads=1))
    gate.opened.release()
    with running(bundles[4], gate.sampler) as client:
        threading.Timer(
            20, gate.opened.release, (20,)
        ).start()  # for the second drawing, long after the first was cancelled
        found = seen(client.base_url, "server", steps=4, cancel=True)
    assert found["status"] == "Cancelled"
    assert found["error"] == ""
    assert found["after"] == "The picture is drawn"


def test_a_static_site_draws_with_threads_on_a_host_without_headers(bundles: dict[int, Path], tmp_path: Path) -> None:
    ort = find_onnxruntime_web(ORT, webgpu=False)
    assert ort is not None
    sizes = write_site(bundles[4], tmp_path / "sub/site", ort)
    assert sizes["ort"] < 15e6
    with hosted(tmp_path) as url:
        found = seen(f"{url}sub/site/", "browser", reload=True)
    (picture,) = pictures(found)
    assert same(picture, Sampler.from_pretrained(bundles[4], threads=1)(PROMPT, seed=7).images[0])
    assert found["isolated"]
    assert found["faults"] == []


def test_a_site_is_told_apart_from_a_server(bundles: dict[int, Path], tmp_path: Path) -> None:
    ort = find_onnxruntime_web(ORT, webgpu=True)
    assert ort is not None
    assert ort.webgpu
    write_site(bundles[4], tmp_path / "site", ort)
    config = json.loads((tmp_path / "site/config.json").read_text("utf-8"))
    assert not config["server"]
    assert config["browser"]["webgpu"]
    for name in ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"):
        assert (tmp_path / "site/ort" / name).is_file()


def altered(bundle: Path, folder: Path) -> Path:
    """A copy whose self-test says that another picture was drawn where it was made."""
    copy = Path(shutil.copytree(bundle, folder))
    golden = json.loads((copy / "selftest/golden.json").read_text("utf-8"))
    golden["network_output"] = [value + 0.01 for value in golden["network_output"]]
    files = {"selftest/golden.json": json.dumps(golden).encode()}
    (copy / "selftest/golden.json").write_bytes(files["selftest/golden.json"])
    (copy / "qsched.json").write_bytes(listing(copy, files))
    return copy


def test_every_way_to_load_in_a_page(bundles: dict[int, Path], tmp_path: Path) -> None:
    """URLs with Cache Storage, a chosen folder, a dropped folder; aborts, fallbacks and the self-test."""
    other = altered(bundles[4], tmp_path / "altered")
    sampler = Sampler.from_pretrained(bundles[4], threads=1)
    files = {f"other/{path.relative_to(other).as_posix()}": path for path in other.rglob("*") if path.is_file()}
    with running(bundles[4], sampler, ORT, more=files) as client:
        job = {"chromium": shutil.which("chromium"), "url": str(client.base_url), "folder": str(bundles[4])}
        found = node("page-ways.mjs", {**job, "altered": {"altered": f"{client.base_url}other/"}}, timeout=600)
    data = len(list(bundles[4].rglob("model.onnx_data")))
    digest = found["first"]["digest"]
    assert len(digest) == 64, digest
    same_picture = [found[way]["digest"] for way in ("again", "spoiled", "anew", "uncached")]
    assert {*same_picture, found["chosen"], found["dropped"], found["altered, untested"]} == {digest}
    fetched = {way: found[way]["fetched"] for way in ("first", "again", "spoiled", "anew", "uncached")}
    assert fetched == {"first": data, "again": 0, "spoiled": data, "anew": data, "uncached": data}
    assert found["kept"] > data
    assert found["forgotten"]
    assert found["altered"] == "BundleError"
    assert found["told"]["stages"] == ["download", "load", "self-test", "ready"]
    assert any("WebGPU" in notice and "wasm is used" in notice for notice in found["told"]["notices"])
    aborts = ("aborted at download", "aborted at load", "aborted at self-test", "aborted while drawing")
    assert {found[name] for name in aborts} == {"AbortError"}
    assert (found["webgpu"], found["tpu"], found["nothing"]) == ("ProviderError", "ProviderError", "BundleError")
