"""A bundle as one file, and back: a zip whose entries are stored and aligned, so that a runtime maps what is in it."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import IO, BinaryIO

from qsched_runtime import manifest as manifests
from qsched_runtime.files import check_digest, opened, read_limited
from qsched_runtime.manifest import NAME, BundleFile
from qsched_runtime.packed import LOCAL_SIZE, Packed
from qsched_runtime.strict import MANIFEST

from qsched_edge.errors import BundleError, OutputExistsError
from qsched_edge.work.lock import locked
from qsched_edge.work.staging import Staging, check_output

PAGE, LINE, LARGE = 4096, 64, 2**20  # where files of a megabyte and smaller ones begin
PADDING = 0xD935  # the extra field that Android's zipalign pads with
ZIP64_FIELD = 20  # bytes that a large file's header has more
BLOCK = 2**20
SUFFIX = ".qsched"


def pack(folder: Path, output: Path, force: bool = False, advance: Callable[[int], None] = lambda n: None) -> Path:
    """Write the bundle at `folder` to the file `output`; the same bundle gives the same bytes.

    Only listed files go in, each with the size and SHA-256 that are listed, or BundleError. `advance` hears bytes.
    """
    if folder.is_file():
        raise BundleError(f"{folder} is a file: name a bundle's folder")
    if output.is_dir():
        raise OutputExistsError(f"{output} is a folder: name a file, such as {output / (folder.name + SUFFIX)}")
    check_output(output, force)
    manifest = manifests.read(folder)
    partial = output.with_name(f".{output.name}.partial")
    with locked(output):
        try:
            with partial.open("wb") as handle:
                with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
                    store(archive, handle, NAME, read_limited(folder, NAME, MANIFEST.bytes))
                    for file in manifest.files:
                        store_file(archive, handle, folder, file, advance)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(partial, output)
        finally:
            partial.unlink(missing_ok=True)
    return output


def header_of(handle: BinaryIO, name: str, size: int) -> zipfile.ZipInfo:
    """An entry without a date whose bytes begin at a multiple of PAGE or LINE."""
    info = zipfile.ZipInfo(name)
    info.file_size, info.external_attr = size, 0o644 << 16
    large = ZIP64_FIELD if size * 1.05 > zipfile.ZIP64_LIMIT else 0  # as zipfile decides
    bare = handle.tell() + LOCAL_SIZE + len(name.encode()) + large + 4
    padding = -bare % (PAGE if size >= LARGE else LINE)
    info.extra = struct.pack("<HH", PADDING, padding) + bytes(padding)
    return info


def store(archive: zipfile.ZipFile, handle: BinaryIO, name: str, data: bytes) -> None:
    info = header_of(handle, name, len(data))
    with archive.open(info, "w") as target:
        target.write(data)
    info.extra = b""  # the list at the end needs no padding


def store_file(
    archive: zipfile.ZipFile, handle: BinaryIO, folder: Path, file: BundleFile, advance: Callable[[int], None]
) -> None:
    """Copy a listed file; BundleError unless it is as listed."""
    info = header_of(handle, file.path, file.bytes)
    with archive.open(info, "w") as target:
        copy(folder, file, target, advance)
    info.extra = b""


def copy(place: Path | Packed, file: BundleFile, target: IO[bytes], advance: Callable[[int], None]) -> None:
    digest, left = sha256(), file.bytes
    with opened(place, file.path) as source:
        size = source.seek(0, os.SEEK_END)
        if size != file.bytes:
            raise BundleError(f"{file.path} has {size} bytes instead of {file.bytes}: copy the bundle again")
        source.seek(0)
        while left > 0 and (block := source.read(min(BLOCK, left))):
            digest.update(block)
            target.write(block)
            left -= len(block)
            advance(len(block))
    check_digest(file, digest.hexdigest())


def unpack(packed: Path, output: Path, force: bool = False, advance: Callable[[int], None] = lambda n: None) -> Path:
    """Write the packed bundle to the folder `output`, file by file as listed; BundleError at the first that is not."""
    if not packed.is_file():
        raise BundleError(f"{packed} is no packed bundle: `qsched-edge pack` makes one")
    check_output(output, force)
    place = Packed(packed)
    manifest = manifests.read(place)
    raw = read_limited(place, NAME, MANIFEST.bytes)
    with Staging(output, {"unpacked": sha256(raw).hexdigest()}, force) as staging:
        for file in manifest.files:
            target = staging.folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as handle:
                copy(place, file, handle, advance)
        (staging.folder / NAME).write_bytes(raw)
    return output
