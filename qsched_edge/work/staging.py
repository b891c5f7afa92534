"""Outputs appear whole or not at all: work goes on in a hidden folder beside the output and is renamed at the end."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from qsched_edge.errors import OutputExistsError, QSchedError
from qsched_edge.work.hashes import differences, listing, remove, settle
from qsched_edge.work.lock import check_free, locked

STAMP, JOURNAL = "stage.json", "journal.jsonl"
PARTIAL, RECORD, JOURNALS = ".partial", ".part.json", ".journal"  # ends of hidden names in a staging folder
LONGEST_NAME = 215  # bytes; file systems hold 255, and hidden names beside an output are longer than its own


def write_bytes(path: Path, data: bytes) -> None:
    """Write under a temporary name, then rename: after a power cut too, the file is the old one or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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


def check_output(output: Path, force: bool) -> None:
    """OutputExistsError, before any work, for an output that is there, has too long a name or is being written."""
    if len(os.fsencode(output.name)) > LONGEST_NAME:
        raise OutputExistsError(f"the name {output.name[:40]}... is too long: use {LONGEST_NAME} bytes at most")
    refuse_existing(output, force)
    check_free(output)


def refuse_existing(output: Path, force: bool) -> None:
    if output.exists() and not force:
        raise OutputExistsError(f"{output} exists: choose another output or add --force to replace it")


def record_at(path: Path) -> dict[str, Any]:
    """What a stamp or a record says; {} where it is missing, damaged or no object."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def say(text: str) -> None:
    print(text, file=sys.stderr)


class Staging:
    """The hidden folder `.NAME.partial` beside `output`, kept when the run is interrupted and had by one process.

    A later run with the same `arguments` finds its finished parts there; one with other arguments starts anew.
    """

    def __init__(self, output: Path, arguments: Mapping[str, Any], force: bool) -> None:
        check_output(output, force)
        self.output = output
        self.folder = output.with_name(f".{output.name}.partial")
        self.stamp = digest(arguments)
        self.sound: set[str] = set()  # parts that this run has made or checked
        self.held = ExitStack()

    def __enter__(self) -> Staging:
        with ExitStack() as stack:
            stack.enter_context(locked(self.output))
            self.begin()
            self.held = stack.pop_all()
        return self

    def begin(self) -> None:
        """Go on from what an interrupted run with the same arguments has left, or from nothing."""
        if self.folder.exists() or self.folder.is_symlink():
            found = record_at(self.folder / STAMP).get("arguments")
            if not isinstance(found, str):
                say(f"{self.folder / STAMP} is damaged: all of {self.output} is made anew")
            if found != self.stamp:
                remove(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / STAMP, {"arguments": self.stamp})
        for path in self.folder.iterdir():
            if not self.goes_on(path):
                remove(path)

    def goes_on(self, path: Path) -> bool:
        """Is this a trace to go on from? All else in the folder is written again."""
        unfinished = path.name.startswith(".") and path.name.endswith((PARTIAL, JOURNALS)) and path.is_dir()
        record = path.name.startswith(".") and path.name.endswith(RECORD)
        return path.name == STAMP or unfinished or record or self.record(path.name).is_file()

    def record(self, name: str) -> Path:
        """What a part was made for and, once it is finished, what it holds."""
        return self.folder / f".{name}{RECORD}"

    def partial(self, name: str) -> Path:
        return self.folder / f".{name}{PARTIAL}"

    def journal(self, name: str) -> Path:
        """A folder for a journal that is no part of the result."""
        return self.folder / f".{name}{JOURNALS}"

    def part(self, name: str, make: Callable[[Path], None], key: object = None) -> Path:
        """The sub-folder `name`, made by `make(folder)` unless it is finished; `make` may find its own traces in it.

        What was made for another `key` is made anew.
        """
        folder, partial = self.folder / name, self.partial(name)
        if not self.finished(name, key):
            write_json(self.record(name), {"key": digest(key), "files": None})
            partial.mkdir(exist_ok=True)
            make(partial)
            write_json(self.record(name), {"key": digest(key), "files": listing(partial)})
            os.replace(partial, folder)
            self.sound.add(name)
        return folder

    def finished(self, name: str, key: object = None) -> bool:
        """Is the part there as it was made for `key`, to the byte? One that is not goes, with a line if damaged."""
        folder, partial, found = self.folder / name, self.partial(name), record_at(self.record(name))
        if name in self.sound:
            return True
        if found.get("key") != digest(key):
            damage = "" if found or not (folder.exists() or partial.exists()) else "nothing says what it holds"
        elif found.get("files") is None and not folder.exists():
            return False  # begun: its traces serve
        else:
            if partial.exists() and not folder.exists():
                os.replace(partial, folder)  # all that was left to do
            damage = self.damage(folder, found.get("files"))
        if damage:
            say(f"{folder} is damaged ({damage}): it is made anew")
        elif found.get("key") == digest(key):
            self.sound.add(name)
            return True
        self.forget(name)
        return False

    def damage(self, folder: Path, files: Any) -> str:
        """What is wrong with a finished part; files that do not belong to it are removed, with a line."""
        damaged, strays = differences(folder, files) if isinstance(files, dict) else (["its record"], [])
        for path in strays if not damaged else ():
            say(f"{path} is no part of {self.output}: removed")
            remove(path)
        return damaged[0] if damaged else ""

    def drop(self, names: Iterable[str]) -> None:
        """Remove parts that are no part of the result."""
        for name in names:
            self.forget(name)

    def forget(self, name: str) -> None:
        for path in (self.folder / name, self.partial(name), self.record(name)):
            remove(path)
        self.sound.discard(name)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self.held:
            self.leave(kind)

    def leave(self, kind: type[BaseException] | None) -> None:
        if kind is None:
            for path in (self.folder / STAMP, *self.folder.glob(".*")):
                remove(path)
            settle(self.folder)
            self.publish()

    def publish(self) -> None:
        replace_folder(self.folder, self.output)


class StagedGraph(Staging):
    """The same for a graph file and the data file beside it: `output` and `output`_data."""

    def __init__(self, output: Path, arguments: Mapping[str, Any], force: bool) -> None:
        if output.is_dir():
            raise OutputExistsError(f"{output} is a folder: name a graph file in it")
        self.data = output.with_name(f"{output.name}_data")
        super().__init__(output, arguments, force)
        check_output(self.data, force)

    def goes_on(self, path: Path) -> bool:
        return path.name in (STAMP, JOURNAL, self.data.name)

    def leave(self, kind: type[BaseException] | None) -> None:
        """A run that was refused leaves nothing, unless the same command with other settings could go on from it."""
        super().leave(kind)
        if kind is not None and issubclass(kind, QSchedError) and not (self.folder / JOURNAL).exists():
            remove(self.folder)

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
