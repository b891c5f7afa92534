"""An append-only journal of everything a search has computed, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qsched_edge.work.staging import digest, write_json


class Journal:
    """Values by key in `folder`/journal.jsonl; floats survive to the bit. Another `identity` starts an empty one."""

    def __init__(self, folder: Path, identity: Any) -> None:
        self.folder, self.path = folder, folder / "journal.jsonl"
        stamp, wanted = folder / "identity.json", digest(identity)
        if stamp.is_file() and json.loads(stamp.read_text()) != wanted:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(stamp, wanted)
        self.values = dict(self._entries())

    def _entries(self) -> list[tuple[str, Any]]:
        """All whole lines; a last line cut off by a kill is dropped, and cut from the file."""
        if not self.path.is_file():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            self.path.write_bytes(whole)
        return [tuple(json.loads(line)) for line in whole.splitlines()]

    def __contains__(self, key: Any) -> bool:
        return digest(key) in self.values

    def recall(self, key: Any, compute: Callable[[], Any]) -> Any:
        """The JSON value computed for `key`, now or in an earlier run."""
        name = digest(key)
        if name not in self.values:
            self.values[name] = compute()
            with self.path.open("a") as handle:
                handle.write(json.dumps([name, self.values[name]]) + "\n")
        return self.values[name]

    def remove(self) -> None:
        shutil.rmtree(self.folder)
