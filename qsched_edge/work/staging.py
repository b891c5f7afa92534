"""Outputs appear whole or not at all: work goes on in a hidden folder beside the output and is renamed at the end."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from qsched_edge.errors import OutputExistsError, QSchedError

STAMP, JOURNAL = "stage.json", "journal.jsonl"


def write_bytes(path: Path, data: bytes) -> None:
    """Write under a temporary name, then rename."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Raises QSchedError for a number that JSON lacks, NaN or infinity, and names the place it has in `value`."""
    place = not_json(value)
    if place is not None:
        raise QSchedError(
            f"{path.name} would hold a number that is not finite at {place or 'its root'}: nothing written"
        )
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def not_json(value: Any) -> str | None:
    """Where the first float that is not finite stands, such as .loss.k or .curve[2]; None where all are."""
    if isinstance(value, float):
        return None if math.isfinite(value) else ""
    inside: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        inside = ((f".{key}", v) for key, v in value.items())
    elif isinstance(value, (list, tuple)):
        inside = ((f"[{i}]", v) for i, v in enumerate(value))
    return next((name + place for name, v in inside if (place := not_json(v)) is not None), None)


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def refuse_existing(output: Path, force: bool) -> None:
    if output.exists() and not force:
        raise OutputExistsError(f"{output} exists: choose another output or add --force to replace it")


def stamped(path: Path) -> str | None:
    """The arguments' digest that a stamp holds; None for a damaged one."""
    try:
        return str(json.loads(path.read_text("utf-8"))["arguments"])
    except (ValueError, KeyError, TypeError):
        return None


class Staging:
    """The hidden folder `.NAME.partial` beside `output`, kept when the run is interrupted.

    A later run with the same `arguments` finds its finished parts there; one with other arguments starts anew.
    """

    def __init__(self, output: Path, arguments: Mapping[str, Any], force: bool) -> None:
        refuse_existing(output, force)
        self.output = output
        self.folder = output.with_name(f".{output.name}.partial")
        self.stamp = digest(arguments)

    def __enter__(self) -> Staging:
        stamp = self.folder / STAMP
        if self.folder.exists() and not (stamp.is_file() and stamped(stamp) == self.stamp):
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(stamp, {"arguments": self.stamp})
        return self

    def part(self, name: str, make: Callable[[Path], None]) -> Path:
        """The sub-folder `name`, made by `make(folder)` unless it is finished; `make` may find its own traces in it."""
        folder = self.folder / name
        if not folder.exists():
            partial = self.folder / f".{name}.partial"
            partial.mkdir(exist_ok=True)
            make(partial)
            os.replace(partial, folder)
        return folder

    def drop(self, names: Iterable[str]) -> None:
        """Remove parts that are no part of the result."""
        for name in names:
            shutil.rmtree(self.folder / name)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            (self.folder / STAMP).unlink()
            self.publish()

    def publish(self) -> None:
        replace_folder(self.folder, self.output)


class StagedGraph(Staging):
    """The same for a graph file and the data file beside it: `output` and `output`_data."""

    def __init__(self, output: Path, arguments: Mapping[str, Any], force: bool) -> None:
        if output.is_dir():
            raise OutputExistsError(f"{output} is a folder: name a graph file in it")
        self.data = output.with_name(f"{output.name}_data")
        refuse_existing(self.data, force)
        super().__init__(output, arguments, force)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """A run that was refused leaves nothing, unless the same command with other settings could go on from it."""
        super().__exit__(kind, *rest)
        if kind is not None and issubclass(kind, QSchedError) and not (self.folder / JOURNAL).exists():
            shutil.rmtree(self.folder)

    def publish(self) -> None:
        """The graph goes first and comes last: a graph never stands beside another one's data."""
        self.output.unlink(missing_ok=True)
        self.data.unlink(missing_ok=True)
        for target in (self.data, self.output):
            if (self.folder / target.name).exists():
                os.replace(self.folder / target.name, target)
        shutil.rmtree(self.folder)


def replace_folder(new: Path, output: Path) -> None:
    """Put `new` in the place of `output`; an old folder is moved aside first and removed last."""
    old = output.with_name(f".{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        os.replace(output, old)
    os.replace(new, output)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)
