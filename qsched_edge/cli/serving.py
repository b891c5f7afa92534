"""serve and site: a page that draws with a bundle, on this machine or copied to a host of static files."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from qsched_edge.cli.options import (
    LIMITS,
    OUTPUT,
    PARTS,
    PLACE,
    Bundle,
    Force,
    Json,
    Quiet,
    RuntimePlace,
    needing,
    option,
    show,
)
from qsched_edge.errors import RequestError
from qsched_edge.serve.settings import ServeSettings

DEFAULT = ServeSettings()
OnnxruntimeWeb = Annotated[
    Path | None,
    option(
        "Folder of the npm package onnxruntime-web, to draw in the browser (default: found in node_modules).",
        PLACE, show_default=False,
    ),
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ServeOptions(RuntimePlace):
    """What `qsched-edge serve` is given."""

    bundle: Bundle
    host: Annotated[str, option("Address to listen on; 0.0.0.0 lets the whole network draw.", PLACE)] = DEFAULT.host
    port: Annotated[int, option("Port to listen on; 0: any that is free.", PLACE)] = DEFAULT.port
    queue: Annotated[int, option("Requests that may wait while one is drawn.", LIMITS)] = DEFAULT.queue
    max_images: Annotated[int, option("Pictures of one request.", LIMITS)] = DEFAULT.max_images
    max_side: Annotated[
        int, option("Pixels of a picture's longer side, where the bundle's own is not longer.", LIMITS)
    ] = DEFAULT.max_side
    onnxruntime_web: OnnxruntimeWeb = None
    quiet: Quiet = False


def serve(given: ServeOptions) -> None:
    """Serve a page that draws with a bundle, and OpenAI's images endpoint, until Ctrl-C."""
    from qsched_edge.serve.published import find_onnxruntime_web

    settings = ServeSettings(given.host, given.port, given.queue, given.max_images, given.max_side)
    ort = find_onnxruntime_web(given.onnxruntime_web)
    with needing("serve"):
        from qsched_edge.serve.run import serve as run_server

    def ready(address: str) -> None:
        print(address, flush=True)
        for line in () if given.quiet else said(settings, ort):
            print(line, file=sys.stderr, flush=True)

    run_server(given.bundle, given.sampler, settings, ort, ready)


def said(settings: ServeSettings, ort: Any) -> list[str]:
    """What whoever starts a server should know of it."""
    found = ["Ctrl-C stops it"]
    if not settings.loopback:
        found.append(f"warning: whoever reaches {settings.host} can draw: there is no password and no encryption")
    if ort is None:
        found.append("pages draw on this machine; to let them draw in the browser too: npm install onnxruntime-web")
    return found


@dataclass(frozen=True, kw_only=True)
class SiteOptions:
    """What `qsched-edge site` is given."""

    bundle: Bundle
    output: Annotated[Path, option("Folder of the site.", OUTPUT, "-o", "--output")]
    webgpu: Annotated[
        bool, option("Bring the build for WebGPU too: 27 MB that only browsers with a GPU load.", PARTS, "--webgpu")
    ] = False
    onnxruntime_web: OnnxruntimeWeb = None
    force: Force = False
    quiet: Quiet = False
    as_json: Json = False


def site(given: SiteOptions) -> None:
    """Write the page as a static site that draws in the browser: for any host of files."""
    from qsched_edge.serve.published import find_onnxruntime_web
    from qsched_edge.serve.site import write_site
    from qsched_edge.work.progress import saying

    ort = find_onnxruntime_web(given.onnxruntime_web, given.webgpu)
    if ort is None:
        raise RequestError("onnxruntime-web is not here: npm install onnxruntime-web, or give --onnxruntime-web")
    with saying(f"checking {given.bundle} and copying it", given.quiet):
        sizes = write_site(given.bundle, given.output, ort, given.force)
    record = {"site": str(given.output), "bytes": sum(sizes.values()), "parts": sizes}
    rows = [f"{name:16} {size:>14,}" for name, size in sizes.items()]
    show(
        record, given.as_json, "\n".join([*rows, f"{given.output}: {record['bytes']:,} bytes, index.html is its page"])
    )
