"""serve: checks and loads a bundle, says where it listens, answers until it is stopped."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from qsched_runtime import Sampler

from qsched_edge.errors import RequestError
from qsched_edge.serve.app import Site
from qsched_edge.serve.published import OnnxruntimeWeb, page_config, published
from qsched_edge.serve.settings import ServeSettings

MOST_CONNECTIONS = 200
LAST_SECONDS = 3  # for what is under way when the server is stopped


def listening(settings: ServeSettings) -> socket.socket:
    """The socket, before anything is loaded; RequestError with the reason where it cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        where = f"{settings.host} port {settings.port}"
        raise RequestError(f"cannot listen on {where} ({error.strerror or error}): choose another --port") from error


def address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def site_of(bundle: Path, sampler: Sampler, settings: ServeSettings, ort: OnnxruntimeWeb | None) -> Site:
    manifest = sampler.manifest
    return Site(sampler, settings, published(bundle, manifest, ort), page_config(manifest, ort, server=True))


def server_of(site: Site) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            site.app(), log_level="warning", access_log=False, server_header=False, lifespan="on",
            limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=LAST_SECONDS,
        )
    )  # fmt: skip


def serve(bundle: Path, load: Callable[[Path], Sampler], settings: ServeSettings, ort: OnnxruntimeWeb | None,
          ready: Callable[[str], None]) -> None:  # fmt: skip
    """Until Ctrl-C or SIGTERM. `load` opens the bundle; `ready` gets the address."""
    with listening(settings) as sock, load(bundle) as sampler:
        server = server_of(site_of(bundle, sampler, settings, ort))
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # uvicorn hands its signal on once it has stopped
        ready(address(sock))
        try:
            server.run(sockets=[sock])
        finally:
            signal.signal(signal.SIGINT, before)
