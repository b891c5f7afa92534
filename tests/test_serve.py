"""The server over real sockets: what it draws, what it refuses, what it never hands out."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import ROOT, cli
from PIL import Image
from qsched_runtime import Coefficients, Sampler
from qsched_runtime import manifest as manifests

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.bundle.write import write_schedule
from qsched_edge.errors import BundleError, RequestError
from qsched_edge.serve.published import find_onnxruntime_web
from qsched_edge.serve.run import address, listening, server_of, site_of
from qsched_edge.serve.settings import ServeSettings
from qsched_edge.serve.site import write_site

API = "v1/images/generations"
PROMPT = "a red apple 🍎"


@contextmanager
def running(
    folder: Path, sampler: Sampler, ort: Path | None = None, more: dict[str, Path] | None = None, **settings: Any
) -> Iterator[httpx.Client]:
    """A client of a server in a thread of this process; `more` files are published as well."""
    asked = ServeSettings(port=0, **settings)
    sock = listening(asked)
    site = site_of(folder, sampler, asked, find_onnxruntime_web(ort) if ort else None)
    server = server_of(replace(site, files={**site.files, **(more or {})}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        with httpx.Client(base_url=address(sock), timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def sampler(bundles: dict[int, Path]) -> Sampler:
    return Sampler.from_pretrained(bundles[4], threads=1)


@pytest.fixture(scope="module")
def ort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the names of onnxruntime-web's files."""
    dist = tmp_path_factory.mktemp("ort") / "dist"
    dist.mkdir()
    (dist / "ort.wasm.min.mjs").write_text('import("./ort-wasm-simd-threaded.mjs")')
    for name in ("ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm", "secret.js"):
        (dist / name).write_text(name)
    return dist.parent


@pytest.fixture(scope="module")
def client(bundles: dict[int, Path], sampler: Sampler, ort: Path) -> Iterator[httpx.Client]:
    with running(bundles[4], sampler, ort, max_side=64) as found:
        yield found


def pixels(datum: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(datum["b64_json"]))))


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(part.split("\ndata: ")[1]) for part in text.split("\n\n") if part]


def test_a_picture_is_the_samplers(client: httpx.Client, sampler: Sampler) -> None:
    body = {"prompt": PROMPT, "seed": 7, "num_inference_steps": 2, "guidance_scale": 1.5, "size": "32x16"}
    answer = client.post(API, json={**body, "model": sampler.manifest.name, "response_format": "b64_json"})
    assert answer.status_code == 200, answer.text
    (datum,) = answer.json()["data"]
    expected = sampler(PROMPT, seed=7, num_inference_steps=2, guidance_scale=1.5, width=32, height=16).images[0]
    assert datum["seed"] == 7
    assert expected.shape == (16, 32, 3)
    assert expected.std() > 5
    assert np.array_equal(pixels(datum), expected)


def test_each_of_several_pictures_can_be_drawn_again_by_its_seed(client: httpx.Client, sampler: Sampler) -> None:
    data = client.post(API, json={"prompt": PROMPT, "n": 3}).json()["data"]
    seeds = [datum["seed"] for datum in data]
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]
    for datum in data:
        alone = sampler(PROMPT, seed=datum["seed"]).images[0]
        assert np.abs(pixels(datum).astype(int) - alone).max() <= 2


def test_a_stream_tells_each_step_and_ends_with_the_same_picture(client: httpx.Client) -> None:
    body = {"prompt": PROMPT, "seed": 7, "num_inference_steps": 4}
    whole = client.post(API, json=body).json()["data"][0]
    answer = client.post(API, json={**body, "stream": True, "partial_images": 2})
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [
        (e["type"].removeprefix("image_generation."), e.get("step", e.get("partial_image_index")))
        for e in events(answer.text)
    ]
    assert told == [
        ("step", 0),
        ("step", 1),
        ("partial_image", 1),
        ("step", 2),
        ("partial_image", 2),
        ("step", 3),
        ("completed", None),
    ]
    assert events(answer.text)[-1]["b64_json"] == whole["b64_json"]
    early = pixels(events(answer.text)[2])
    assert not np.array_equal(early, pixels(whole))


def test_stock_is_drawn_beside_calibrated(bundles: dict[int, Path], sampler: Sampler, tmp_path: Path) -> None:
    """A calibration that moved a timestep and scaled the steps; without it the picture is the exported bundle's."""
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    table = sampler.manifest.schedules[4]
    moved = replace(table, timesteps=np.array([999.0, 700.0, 400.0, 100.0]))
    write_schedule(folder, LearnedSchedule(moved, Coefficients(np.full(4, 1.1), np.full(4, 0.9))), {})
    calibrated = Sampler.from_pretrained(folder, threads=1)
    body = {"prompt": PROMPT, "seed": 7, "num_inference_steps": 4}
    with running(folder, calibrated) as client:
        config = client.get("config.json").json()
        found = {
            s: pixels(client.post(API, json={**body, "schedule": s}).json()["data"][0]) for s in ("calibrated", "stock")
        }
    assert config["calibrated"] == [4]
    assert np.array_equal(found["calibrated"], calibrated(PROMPT, seed=7, num_inference_steps=4).images[0])
    assert np.array_equal(found["stock"], sampler(PROMPT, seed=7, num_inference_steps=4).images[0])
    assert not np.array_equal(found["stock"], found["calibrated"])


WRONG = {
    "no prompt": ({"n": 1}, 400, "prompt"),
    "a prompt that is no text": ({"prompt": ["a"]}, 400, "prompt"),
    "a long prompt": ({"prompt": "x" * 10_001}, 400, "prompt"),
    "no pictures": ({"prompt": "x", "n": 0}, 400, "n"),
    "more pictures than allowed": ({"prompt": "x", "n": 5}, 400, "n"),
    "half a picture": ({"prompt": "x", "n": 1.5}, 400, "n"),
    "a size in words": ({"prompt": "x", "size": "large"}, 400, "size"),
    "a size that is too large": ({"prompt": "x", "size": "128x16"}, 400, "size"),
    "a size that does not fit": ({"prompt": "x", "size": "17x16"}, 400, "size"),
    "no size": ({"prompt": "x", "size": "0x16"}, 400, "size"),
    "a URL": ({"prompt": "x", "response_format": "url"}, 400, "response_format"),
    "steps without a schedule": ({"prompt": "x", "num_inference_steps": 99}, 400, "num_inference_steps"),
    "a boolean seed": ({"prompt": "x", "seed": True}, 400, "seed"),
    "a seed beyond 64 bits": ({"prompt": "x", "seed": 2**64}, 400, "seed"),
    "seeds beyond 64 bits": ({"prompt": "x", "seed": 2**64 - 1, "n": 2}, 400, "seed"),
    "guidance in words": ({"prompt": "x", "guidance_scale": "much"}, 400, "guidance_scale"),
    "guidance out of range": ({"prompt": "x", "guidance_scale": 1e30}, 400, "guidance_scale"),
    "a negative prompt without guidance": ({"prompt": "x", "negative_prompt": "y"}, 400, "negative_prompt"),
    "a list of negative prompts": ({"prompt": "x", "negative_prompt": []}, 400, "negative_prompt"),
    "an unknown schedule": ({"prompt": "x", "schedule": "best"}, 400, "schedule"),
    "a stream that is a number": ({"prompt": "x", "stream": 1}, 400, "stream"),
    "another model": ({"prompt": "x", "model": "dall-e-2"}, 404, "model"),
    "an unknown parameter": ({"prompt": "x", "sampler": "ddim"}, 400, None),
    "no object": ([], 400, None),
}  # fmt: skip


@pytest.mark.parametrize(("body", "status", "param"), WRONG.values(), ids=WRONG)
def test_bad_requests_name_the_parameter(client: httpx.Client, body: Any, status: int, param: str | None) -> None:
    refused(client.post(API, json=body), status, param)


def refused(answer: httpx.Response, status: int, param: str | None = None) -> None:
    """An error in OpenAI's shape, one line."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["message"].isprintable()
    assert 10 < len(error["message"]) <= 300


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[" * 60_000, b'{"prompt":"x","prompt":"y"}', b'{"prompt":NaN}']
)
def test_what_is_no_json_is_refused(client: httpx.Client, body: bytes) -> None:
    refused(client.post(API, content=body, headers={"content-type": "application/json"}), 400)


def test_long_bodies_are_refused_before_and_while_they_are_read(client: httpx.Client) -> None:
    kind = {"content-type": "application/json"}
    refused(client.post(API, content=b" " * 70_000, headers=kind), 413)
    refused(client.post(API, content=(b" " * 10_000 for _ in range(8)), headers=kind), 413)


def test_what_a_strangers_page_may_send_is_refused(client: httpx.Client) -> None:
    """A page elsewhere may post text here without asking; JSON it may not, since no answer allows it to."""
    refused(client.post(API, content=b'{"prompt":"x"}', headers={"content-type": "text/plain"}), 415)
    answer = client.options(
        API, headers={"origin": "http://elsewhere.example", "access-control-request-method": "POST"}
    )
    assert "access-control-allow-origin" not in answer.headers
    assert client.get("", headers={"host": "elsewhere.example"}).status_code == 400
    assert client.get("", headers={"host": "localhost"}).status_code == 200


def test_other_methods_and_paths_are_errors_of_the_same_shape(client: httpx.Client) -> None:
    refused(client.get("nothing"), 404)
    refused(client.put(API), 405)
    refused(client.post("config.json"), 405)


def test_every_answer_isolates_the_page(client: httpx.Client) -> None:
    for path in ("", "page.js", "config.json", "bundle/qsched.json", "nothing", "v1/models"):
        headers = client.get(path).headers
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert "default-src 'none'" in headers["content-security-policy"]


def test_the_page_asks_for_nothing_elsewhere(client: httpx.Client) -> None:
    """No address of another host in what is served of ours; `xmlns` is a name."""
    for path in ("", "page.css", "page.js", "figure.js", "server.js", "browser.js", "icon.svg"):
        answer = client.get(path)
        assert answer.status_code == 200
        text = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|[\"'(]//|@import", text), path


def test_files_come_whole_in_ranges_and_not_twice(client: httpx.Client, bundles: dict[int, Path]) -> None:
    for file in manifests.read(bundles[4]).files:
        assert hashlib.sha256(client.get(f"bundle/{file.path}").content).hexdigest() == file.sha256
    data = (bundles[4] / "unet/model.onnx").read_bytes()
    part = client.get("bundle/unet/model.onnx", headers={"range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.headers["content-range"] == f"bytes 10-19/{len(data)}"
    assert part.content == data[10:20]
    assert client.get("bundle/unet/model.onnx", headers={"range": f"bytes={len(data)}-"}).status_code == 416
    known = client.get("bundle/unet/model.onnx").headers["etag"]
    assert client.get("bundle/unet/model.onnx", headers={"if-none-match": known}).status_code == 304
    assert client.get("ort/ort-wasm-simd-threaded.wasm").headers["content-type"] == "application/wasm"
    assert client.get("runtime/worker.js").headers["content-type"].startswith("text/javascript")


OUTSIDE = [
    "/../pyproject.toml", "/bundle/../stray", "/bundle/%2e%2e/stray", "/bundle/..%2fstray", "/bundle/unet/../../stray",
    "/bundle/stray", "//etc/passwd", "/bundle//etc/passwd", "/bundle/%2fetc%2fpasswd", "/bundle/", "/bundle",
    "/ort/secret.js", "/runtime/", "/runtime/../package.json", "/bundle/unet", "/bundle/qsched.json%00",
    "/bundle\\..\\stray", "/.git/config",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out(client: httpx.Client, bundles: dict[int, Path], path: str) -> None:
    """As bytes on a socket: a client would tidy the path up."""
    stray = bundles[4] / "stray"
    stray.write_text("stray")
    try:
        with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
    finally:
        stray.unlink()
    assert answer.split()[1] == b"404", answer[:200]


class Gate:
    """A network that waits at the gate; counts what passes."""

    def __init__(self, sampler: Sampler) -> None:
        self.network, self.opened, self.passed = sampler.graphs[sampler.manifest.backbone], threading.Semaphore(0), 0
        graphs = {**sampler.graphs, sampler.manifest.backbone: self}
        self.sampler = Sampler(sampler.manifest, graphs, sampler.tokenizers)

    def __call__(self, feeds: Any) -> Any:
        assert self.opened.acquire(timeout=60)
        self.passed += 1
        return self.network(feeds)


def until(met: Any) -> None:
    for _ in range(600):
        if met():
            return
        time.sleep(0.05)
    pytest.fail("it did not come to pass in 30 s")


@contextmanager
def asking(client: httpx.Client, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A request under way in a thread of its own."""
    found: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: found.update(answer=client.post(API, json=body)), daemon=True)
    thread.start()
    yield found
    thread.join(60)


def test_a_full_line_is_said_and_the_line_moves_on(bundles: dict[int, Path], sampler: Sampler) -> None:
    gate = Gate(sampler)
    body = {"prompt": PROMPT, "seed": 7, "num_inference_steps": 1}
    with running(bundles[4], gate.sampler, queue=1) as client, asking(client, body) as first:
        time.sleep(0.3)
        with client.stream("POST", API, json={**body, "stream": True}) as second:
            lines = second.iter_lines()
            assert next(lines) == "event: image_generation.queued"
            refused(client.post(API, json=body), 429)
            assert gate.passed == 0
            gate.opened.release(2)
            assert "event: image_generation.completed" in list(lines)
    assert first["answer"].status_code == 200
    assert gate.passed == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_drawing(bundles: dict[int, Path], sampler: Sampler, stream: bool) -> None:
    gate = Gate(sampler)
    body = json.dumps({"prompt": PROMPT, "num_inference_steps": 4, "stream": stream}).encode()
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    head = f"POST /{API} HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n\r\n"
    with running(bundles[4], gate.sampler, queue=0) as client:
        place = (client.base_url.host, client.base_url.port or 80)
        with socket.create_connection(place, timeout=20) as leaver:
            leaver.sendall(head.encode() + body)
            gate.opened.release()
            until(lambda: gate.passed == 1)
            assert client.post(API, json={"prompt": "x"}).status_code == 429
        time.sleep(0.3)  # the server sees the end of the connection before the second step is let through
        gate.opened.release(20)
        until(lambda: client.post(API, json={"prompt": "x", "num_inference_steps": 1}).status_code == 200)
    assert gate.passed == 3, "one step, the one under way when the client left, and the next client's"


def test_who_waits_may_leave_the_line(bundles: dict[int, Path], sampler: Sampler) -> None:
    gate = Gate(sampler)
    body = {"prompt": PROMPT, "num_inference_steps": 1}
    with running(bundles[4], gate.sampler, queue=1) as client, asking(client, body) as first:
        time.sleep(0.3)
        with client.stream("POST", API, json={**body, "stream": True}) as second:
            assert next(second.iter_lines()) == "event: image_generation.queued"
        with client.stream("POST", API, json={**body, "stream": True}) as third:
            lines = third.iter_lines()
            assert next(lines) == "event: image_generation.queued"
            gate.opened.release(3)
            assert "event: image_generation.completed" in list(lines)
    assert first["answer"].status_code == 200
    assert gate.passed == 2


def test_a_bundle_that_draws_nothing_finite_is_an_error(bundles: dict[int, Path], sampler: Sampler) -> None:
    network = sampler.graphs[sampler.manifest.backbone]
    broken = {
        **sampler.graphs,
        sampler.manifest.backbone: lambda feeds: {n: v * np.nan for n, v in network(feeds).items()},
    }
    with running(bundles[4], Sampler(sampler.manifest, broken, sampler.tokenizers)) as client:
        refused(client.post(API, json={"prompt": "x"}), 500)
        (error,) = events(client.post(API, json={"prompt": "x", "stream": True}).text)
        assert "not finite" in error["error"]["message"]


def test_settings_and_ports_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    for wrong in ({"port": 70000}, {"queue": -1}, {"max_images": 0}, {"max_side": 10**6}):
        with pytest.raises(RequestError, match="out of range"):
            ServeSettings(**wrong)
    with listening(ServeSettings(port=0)) as sock, pytest.raises(RequestError, match="--port"):
        listening(ServeSettings(port=sock.getsockname()[1]))
    with pytest.raises(RequestError, match="onnxruntime-web"):
        find_onnxruntime_web(tmp_path)
    done = cli("serve", tmp_path / "nowhere", "--port", 0)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the folder does not exist" in done.stderr


def test_a_site_is_the_same_files_and_says_that_no_server_draws(
    bundles: dict[int, Path], ort: Path, client: httpx.Client, tmp_path: Path
) -> None:
    out = tmp_path / "site"
    command = ("site", bundles[4], "-o", out, "--onnxruntime-web", ort, "--json")
    done = cli(*command)
    assert done.returncode == 0, done.stderr
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert json.loads(done.stdout)["bytes"] == sum(path.stat().st_size for path in files.values())
    own = {"config.json", "index.html", "_headers", ".nojekyll"}
    for name in set(files) - own:
        assert files[name].read_bytes() == client.get(name).content, name
    assert {"bundle/qsched.json", "runtime/worker.js", "ort/ort-wasm-simd-threaded.wasm", "isolate.js"} <= set(files)
    config = json.loads(files["config.json"].read_text("utf-8"))
    assert config == {**client.get("config.json").json(), "server": False}
    policy = client.get("").headers["content-security-policy"].removesuffix("; frame-ancestors 'none'")
    assert f'content="{policy}"' in files["index.html"].read_text("utf-8")
    again = cli(*command)
    assert again.returncode == 1
    assert "--force" in again.stderr
    assert list(tmp_path.iterdir()) == [out]


def test_a_site_is_made_of_a_sound_bundle_alone(bundles: dict[int, Path], ort: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    data = folder / "unet/model.onnx_data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x7f")
    web = find_onnxruntime_web(ort)
    assert web is not None
    with pytest.raises(BundleError, match="SHA-256"):
        write_site(folder, tmp_path / "site", web)
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped(bundles: dict[int, Path], how: signal.Signals) -> None:
    command = [sys.executable, "-m", "qsched_edge", "serve", str(bundles[4]), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(url).text.startswith("<!doctype html>")
        process.send_signal(how)
        _, said = process.communicate(timeout=30)
    assert "Traceback" not in said
    assert process.returncode == (0 if how == signal.SIGINT else -how)
