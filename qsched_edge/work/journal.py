"""An append-only journal of everything a search has computed, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qsched_edge.work.hashes import remove
from qsched_edge.work.staging import digest, write_bytes, write_json


def line_of(name: str, value: Any) -> str:
    """A value and its key as one line, with a checksum: a flipped bit may leave a line that reads well."""
    body = json.dumps([name, value])
    return f"{zlib.crc32(body.encode()):08x} {body}\n"


def entry_of(line: bytes) -> tuple[str, Any] | None:
    """The inverse of `line_of`; None for what it did not write."""
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
        return None
    name, value = json.loads(body)
    return name, value


def stamp_of(path: Path) -> Any:
    """What a stamp says; None where it is missing or damaged, which is no stamp that is wanted."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None


class Journal:
    """Values by key in `folder`/journal.jsonl; floats survive to the bit. Another `identity` starts an empty one."""

    def __init__(self, folder: Path, identity: Any) -> None:
        self.folder, self.path = folder, folder / "journal.jsonl"
        stamp, wanted = folder / "identity.json", digest(identity)
        if folder.exists() and (found := stamp_of(stamp)) != wanted:
            if found is None and self.path.exists():
                print(f"{stamp} is damaged: all that was measured is computed again", file=sys.stderr)
            remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(stamp, wanted)
        self.values = dict(self._entries())

    def _entries(self) -> list[tuple[str, Any]]:
        """All lines that are as they were written; a last line cut off by a kill goes, and damaged ones with a word."""
        if not self.path.is_file():
            return []
        lines = self.path.read_bytes().splitlines(keepends=True)
        whole = [(line, entry) for line in lines if (entry := entry_of(line)) is not None]
        if len(whole) < len(lines):
            write_bytes(self.path, b"".join(line for line, _ in whole))
            damaged = len(lines) - len(whole) - (not lines[-1].endswith(b"\n"))
            if damaged > 0:
                print(f"{self.path}: {damaged} damaged lines are computed again", file=sys.stderr)
        return [entry for _, entry in whole]

    def __contains__(self, key: Any) -> bool:
        return digest(key) in self.values

    def recall(self, key: Any, compute: Callable[[], Any]) -> Any:
        """The JSON value computed for `key`, now or in an earlier run."""
        name = digest(key)
        if name not in self.values:
            self.values[name] = compute()
            with self.path.open("a") as handle:
                handle.write(line_of(name, self.values[name]))
        return self.values[name]

    def remove(self) -> None:
        shutil.rmtree(self.folder)
