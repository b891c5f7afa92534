"""Every file that a page needs and no other: the page, the web runtime, onnxruntime-web's files, the bundle's files.

A server answers with these alone, so no path leads out of them; a static site is a copy of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import __version__
from qsched_runtime import manifest as manifests
from qsched_runtime.manifest import Manifest

from qsched_edge._shelf import shelf
from qsched_edge.bundle.write import STOCK
from qsched_edge.errors import RequestError

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript",
    ".json": "application/json", ".svg": "image/svg+xml", ".wasm": "application/wasm", ".txt": "text/plain",
    ".md": "text/plain",
}  # fmt: skip
POLICY = {
    "default-src": "'none'", "script-src": "'self' 'wasm-unsafe-eval'", "worker-src": "'self'", "style-src": "'self'",
    "img-src": "'self' blob:", "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'",
}  # fmt: skip
ISOLATION = {  # what lets a page use shared memory, hence threads, in WASM
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
CSP = "; ".join(f"{name} {value}" for name, value in POLICY.items())
HEADERS = {
    **ISOLATION,
    "Content-Security-Policy": f"{CSP}; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
ENTRY = "ort.{}.min.mjs"
LOADED = re.compile(rb"ort-wasm-simd-threaded[.\w]*?\.mjs")


@dataclass(frozen=True)
class OnnxruntimeWeb:
    """`files`: what a page loads of the npm package, by name; `webgpu`: whether the build for WebGPU is among them."""

    files: Mapping[str, Path]
    webgpu: bool


def media_type(path: Path) -> str:
    return TYPES.get(path.suffix, "application/octet-stream")


def find_onnxruntime_web(given: Path | None, webgpu: bool = True) -> OnnxruntimeWeb | None:
    """The npm package in the folder `given`, else where npm has put it: beside the web runtime of a checkout, or in
    node_modules here. None where it is not; RequestError where `given` is no such package."""
    places = [shelf("runtimes/web") / "node_modules/onnxruntime-web", Path("node_modules/onnxruntime-web")]
    for folder in [given] if given else places:
        entry = folder / "dist" / ENTRY.format("wasm")
        if entry.is_file():
            entries = [entry, folder / "dist" / ENTRY.format("webgpu")]
            files = [file for e in entries[: 1 + webgpu] if e.is_file() for file in (e, *parts(e))]
            return OnnxruntimeWeb({file.name: file for file in files}, entries[1] in files)
    if given:
        raise RequestError(
            f"{given} is not the npm package onnxruntime-web: give its folder, which holds dist/{entry.name}"
        )
    return None


def parts(entry: Path) -> list[Path]:
    """The files that an entry of onnxruntime-web loads: a module and its WebAssembly."""
    names = sorted({name.decode() for name in LOADED.findall(entry.read_bytes())})
    found = [entry.with_name(name).with_suffix(suffix) for name in names for suffix in (".mjs", ".wasm")]
    missing = next((file for file in found if not file.is_file()), None)
    if missing or not found:
        raise RequestError(f"onnxruntime-web lacks {missing or 'its modules'}: npm install onnxruntime-web")
    return found


def published(bundle: Path, manifest: Manifest, ort: OnnxruntimeWeb | None) -> dict[str, Path]:
    """Path of the URL -> file."""
    found = {file.name: file for file in PAGE.iterdir() if file.is_file()}
    if ort is None:
        return found
    listed = [manifests.NAME, *(file.path for file in manifest.files)]
    return {
        **found,
        **{f"runtime/{file.name}": file for file in shelf("runtimes/web/src").glob("*.js") if file.name != "node.js"},
        **{f"ort/{name}": file for name, file in ort.files.items()},
        **{f"bundle/{path}": bundle / path for path in listed},
    }


def page_config(manifest: Manifest, ort: OnnxruntimeWeb | None, server: bool) -> bytes:
    """config.json: what the page says of the bundle and offers. `server`: whether POST v1/images/generations draws."""
    provenance, spec = manifest.raw.get("provenance", {}), manifest.latents
    downloads = published_bytes(manifest, ort) if ort else 0
    return json.dumps({
        "version": __version__, "name": manifest.name, "title": text(provenance, "title") or manifest.name,
        "license": text(provenance, "license"), "credits": text(provenance, "credits"),
        "bundle_bytes": sum(file.bytes for file in manifest.files),
        "steps": sorted(manifest.schedules), "default_steps": manifest.default_steps,
        "calibrated": [steps for steps in sorted(manifest.schedules) if is_calibrated(manifest, steps)],
        "guidance": {"kind": manifest.guidance.kind, "default": manifest.guidance.default},
        "height": spec.height * spec.pixels_per_latent, "width": spec.width * spec.pixels_per_latent,
        "server": server, "browser": {"webgpu": ort.webgpu, "bytes": downloads} if ort else None,
    }, ensure_ascii=False).encode()  # fmt: skip


def text(raw: Mapping[str, Any], name: str) -> str:
    """A bundle's author wrote it: it may be anything."""
    return value[:500] if isinstance(value := raw.get(name), str) else ""


def published_bytes(manifest: Manifest, ort: OnnxruntimeWeb) -> int:
    """What a page downloads before its first picture by WASM: the graphs, their weights, and onnxruntime-web."""
    wasm = sum(file.stat().st_size for name, file in ort.files.items() if name in wasm_names(ort))
    return wasm + sum(file.bytes for file in manifest.files)


def wasm_names(ort: OnnxruntimeWeb) -> set[str]:
    entry = ort.files[ENTRY.format("wasm")]
    return {entry.name, *(file.name for file in parts(entry))}


def is_calibrated(manifest: Manifest, steps: int) -> bool:
    """Whether its pictures of that many steps are others than the stock schedule's."""
    learned = manifest.coefficients[steps]
    ones = np.all(learned.c_x == 1) and np.all(learned.c_eps == 1) and not np.any(np.asarray(learned.bias))
    return not ones or STOCK in manifest.raw["schedules"][str(steps)]
