"""A model hub on the loopback device: what huggingface_hub asks of one, answered from folders OWNER/NAME."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class LocalHub:
    """`folder` holds the repositories; `fetched` are the files that were downloaded, OWNER/NAME/FILE."""

    folder: Path
    url: str = ""
    fetched: list[str] = field(default_factory=list)

    def environment(self, cache: Path) -> dict[str, str]:
        """Of a process that knows this hub alone and has its cache in `cache`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}


def ask_here(hub: LocalHub, cache: Path, patch: Any) -> None:
    """Make huggingface_hub of this process know `hub` alone, with its cache in `cache`; pytest's `patch` undoes it."""
    from huggingface_hub import constants

    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "ENDPOINT", hub.url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@contextmanager
def serving(folder: Path) -> Iterator[LocalHub]:
    hub = LocalHub(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(True)

        def do_HEAD(self) -> None:
            self.answer(False)

        def log_message(self, *arguments: object) -> None:
            pass

        def answer(self, whole: bool) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                repository, rest = folder / parts[2] / parts[3], parts[4:]
                if repository.is_dir():
                    found = tree(repository) if "tree" in rest else listing(repository, commit_in(rest))
                    return self.send_json(found, whole)
            elif "resolve" in parts:
                file = folder.joinpath(*parts[:2], *parts[4:])
                if file.is_file():
                    return self.send_file(file, commit_in(parts[3:4]), whole)
            return self.send_body(404, b"{}", {"X-Error-Code": "EntryNotFound"}, whole)

        def send_json(self, value: object, whole: bool) -> None:
            self.send_body(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, whole)

        def send_file(self, file: Path, commit: str, whole: bool) -> None:
            data = file.read_bytes()
            if whole:
                hub.fetched.append(file.relative_to(folder).as_posix())
            digest = hashlib.sha256(data).hexdigest()
            self.send_body(200, data, {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}, whole)

        def send_body(self, code: int, data: bytes, headers: dict[str, str], whole: bool) -> None:
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if whole:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def files_in(repository: Path) -> list[Path]:
    return sorted(p for p in repository.rglob("*") if p.is_file())


def commit_in(parts: list[str]) -> str:
    """The commit that a request names; COMMIT stands for every branch."""
    return next((part for part in parts if re.fullmatch("[0-9a-f]{40}", part)), COMMIT)


def listing(repository: Path, commit: str) -> dict[str, object]:
    name = repository.relative_to(repository.parent.parent).as_posix()
    files = [
        {"rfilename": p.relative_to(repository).as_posix(), "size": p.stat().st_size} for p in files_in(repository)
    ]
    return {"id": name, "modelId": name, "sha": commit, "siblings": files, "tags": [], "private": False}


def tree(repository: Path) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": p.relative_to(repository).as_posix(), "size": p.stat().st_size, "oid": COMMIT}
        for p in files_in(repository)
    ]
