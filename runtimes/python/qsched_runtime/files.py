"""A bundle's files: plain ones inside its folder, opened once, read up to a limit, held to size and SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from qsched_runtime.errors import BundleError

LONGEST_PATH, DEEPEST = 240, 8  # characters and folders that every system holds
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # what Windows takes for a device


class Listed(Protocol):
    """A file as the manifest lists it."""

    @property
    def path(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class Opener(Protocol):
    """A packed bundle, as far as its files are read."""

    def opened(self, relative: str) -> BinaryIO: ...


Place = Path | Opener  # of a bundle: its folder, or one file that holds all of it


def check_path(relative: str) -> PurePosixPath:
    """BundleError unless `relative` is a POSIX path that stays inside and means the same on every system."""
    pure = PurePosixPath(relative)
    leaves = pure.is_absolute() or not pure.parts or ".." in pure.parts or "\\" in relative or ":" in relative
    if leaves or str(pure) != relative or len(relative) > LONGEST_PATH or len(pure.parts) > DEEPEST:
        raise BundleError(f"path {relative!r} leaves the bundle: refused")
    for part in pure.parts:
        if part != part.strip() or part.endswith(".") or not part.isprintable() or DEVICES.fullmatch(part):
            raise BundleError(f"path {relative!r} is no plain name on every system: refused")
    return pure


def check_distinct(paths: Iterable[str]) -> None:
    """BundleError for names that are one file where case or Unicode's forms do not count."""
    seen: dict[str, str] = {}
    for path in paths:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        if key in seen:
            raise BundleError(f"{path!r} and {seen[key]!r} are one file on some systems: refused")
        seen[key] = path


def inside(folder: Path, relative: str) -> Path:
    """`folder / relative`, refused unless it lies inside the bundle by its own name and no link is on the way."""
    path = folder
    for part in check_path(relative).parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(f"{relative!r} is a symbolic link: refused; a bundle holds plain files")
    return path


def missing(relative: str, place: Place) -> BundleError:
    return BundleError(f"{relative} is missing from {place}: copy the bundle again")


def opened(place: Place, relative: str) -> BinaryIO:
    """The file, opened without following links; BundleError where it is missing or no plain file of one name."""
    if not isinstance(place, Path):
        return place.opened(relative)
    path = inside(place, relative)
    try:
        return open_plain(path, relative)
    except FileNotFoundError as error:
        raise missing(relative, place) from error


def open_plain(path: Path, relative: str) -> BinaryIO:
    """The file at `path`, called `relative` where it is refused; FileNotFoundError where there is none."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise BundleError(f"{relative!r} is no plain file: refused")
        if found.st_nlink > 1:
            raise BundleError(f"{relative!r} is a hard link: refused; copy the bundle, so that its files are its own")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BundleError(f"{relative} cannot be opened ({error.strerror}): copy the bundle again") from error
    return os.fdopen(handle, "rb")


def read_limited(place: Place, relative: str, limit: int) -> bytes:
    """The file's bytes; BundleError if it has more than `limit`."""
    with opened(place, relative) as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(0)
        data = handle.read(limit + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise BundleError(f"{relative} has more than {limit} bytes, which no bundle needs: refused")
    return data


def check_file(place: Place, file: Listed) -> None:
    """Raise BundleError unless the file has the size and SHA-256 that the manifest states."""
    with opened(place, file.path) as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(0)
        if size != file.bytes:
            raise BundleError(f"{file.path} has {size} bytes instead of {file.bytes}: copy the bundle again")
        found = digest_of(handle)
    check_digest(file, found)


def read_checked(place: Place, file: Listed, limit: int) -> bytes:
    """The bytes of a file, hashed as they were read: nothing can change between check and use."""
    data = read_limited(place, file.path, limit)
    if len(data) != file.bytes:
        raise BundleError(f"{file.path} has {len(data)} bytes instead of {file.bytes}: copy the bundle again")
    check_digest(file, hashlib.sha256(data).hexdigest())
    return data


def check_digest(file: Listed, found: str) -> None:
    if found != file.sha256:
        raise BundleError(f"{file.path} does not have the SHA-256 {file.sha256[:12]}…: copy the bundle again")


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return digest_of(handle)


def digest_of(handle: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := handle.read(2**20):
        digest.update(block)
    return digest.hexdigest()
