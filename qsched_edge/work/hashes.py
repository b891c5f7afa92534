"""What a finished folder holds, file by file, and whether it still does: a power cut leaves zeros where bytes were."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

BLOCK = 2**20


def listing(folder: Path) -> dict[str, list[Any]]:
    """[bytes, SHA-256] of every file by its path in `folder`; all of them are on the disk before this returns."""
    return {path.relative_to(folder).as_posix(): hashed(path, settle=True) for path in sorted(plain_files(folder))}


def differences(folder: Path, listed: Mapping[str, Any]) -> tuple[list[str], list[Path]]:
    """Listed files that are missing or have other bytes, and what lies there beside them."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    wanted = {parent.as_posix() for name in listed for parent in (Path(name), *Path(name).parents)}
    damaged = [name for name, entry in listed.items() if not same(folder / name, entry)]
    return damaged, [path for name, path in found.items() if name not in wanted]


def same(path: Path, entry: Any) -> bool:
    try:
        plain = stat.S_ISREG(path.lstat().st_mode) and path.lstat().st_size == entry[0]
        return plain and hashed(path) == list(entry)
    except (OSError, LookupError, TypeError):
        return False


def hashed(path: Path, settle: bool = False) -> list[Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
            size += len(block)
        if settle:
            os.fsync(handle.fileno())
    return [size, digest.hexdigest()]


def plain_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def settle(folder: Path) -> None:
    """Return when the disk has every file of `folder`."""
    for path in plain_files(folder):
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def remove(path: Path) -> None:
    """Whatever is there, a folder with all that it holds; nothing is fine too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove all of `folder` but `names`: an interrupted run leaves other files than those that it goes on from."""
    for path in folder.iterdir():
        if path.name not in names:
            remove(path)
