"""Prompt sets: plain text, one prompt a line, `#` lines say source, licence and split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsched_edge.errors import PromptsError


@dataclass(frozen=True)
class PromptSet:
    """Prompts in the file's order; `sha256` is that of the file."""

    path: Path
    prompts: tuple[str, ...]
    sha256: str

    def first(self, count: int) -> tuple[str, ...]:
        if count < 1 or count > len(self.prompts):
            raise PromptsError(f"{self.path} has {len(self.prompts)} prompts, {count} were asked for")
        return self.prompts[:count]

    def last(self, most: int) -> tuple[str, ...]:
        """Up to `most` prompts from the file's end: what decides there is not what reports from its begin."""
        return self.prompts[-most:]

    def record(self, count: int) -> dict[str, Any]:
        """What provenance says of the first `count` prompts; raises PromptsError if there are fewer."""
        return {"file": self.path.name, "sha256": self.sha256, "count": len(self.first(count))}


def read_prompts(path: Path) -> PromptSet:
    """Raises PromptsError for a file that is missing, not UTF-8 or without a single prompt."""
    try:
        data = path.read_bytes()
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise PromptsError(f"prompt file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PromptsError(f"prompt file {path} is not UTF-8 text (byte {error.start})") from error
    prompts = tuple(line for line in lines if line and not line.startswith("#"))
    if not prompts:
        raise PromptsError(f"prompt file {path} has no prompts: write one a line")
    return PromptSet(path, prompts, hashlib.sha256(data).hexdigest())
