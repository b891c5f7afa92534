"""A packed bundle: one zip file whose entries are stored, never compressed, so that each is a range of its bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from qsched_runtime.errors import BundleError
from qsched_runtime.files import check_distinct, check_path, missing, open_plain
from qsched_runtime.wire import Field, WireError, field_bytes, fields, same_bytes, text

END, END64, LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"  # signatures
CENTRAL, LOCAL = b"PK\1\2", b"PK\3\4"
END_SIZE, LOCATOR64_SIZE, END64_SIZE, CENTRAL_SIZE, LOCAL_SIZE = 22, 20, 56, 46, 30
LONGEST_COMMENT = 65_535
MOST_FILES, LARGEST_DIRECTORY = 2_000, 4 * 2**20  # entries; bytes of the list of files
ENCRYPTED, ZIP64 = 1, 1  # a flag; the number of an extra field
FULL = 0xFFFFFFFF  # 32 bits that say: look into the zip64 field


@dataclass(frozen=True)
class Entry:
    """A file's bytes are `start` to `start + size` of the packed bundle; its header begins at `header`."""

    header: int
    start: int
    size: int


class Packed:
    """The files of the packed bundle at `path` by their names; raises BundleError for what is no such file."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()  # a link that the caller names is the caller's own
        with open_plain(self.path, str(path)) as handle:
            self.entries = read_entries(handle, handle.seek(0, os.SEEK_END))

    def __str__(self) -> str:
        return str(self.path)

    def opened(self, relative: str) -> BinaryIO:
        entry = self.entries.get(str(check_path(relative)))
        if entry is None:
            raise missing(relative, self)
        return io.BufferedReader(Range(open_plain(self.path, str(self.path)), entry))


class Range(io.RawIOBase):
    """An entry's bytes as a file of their own."""

    def __init__(self, handle: BinaryIO, entry: Entry) -> None:
        self.handle, self.entry, self.at = handle, entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.entry.size}[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        self.handle.seek(self.entry.start + self.at)
        count = self.handle.readinto(memoryview(buffer)[: max(0, self.entry.size - self.at)])  # type: ignore[attr-defined]
        self.at += count
        return int(count)

    def close(self) -> None:
        self.handle.close()
        super().close()


def damaged(why: str) -> BundleError:
    return BundleError(f"this is no packed bundle ({why}): pack the bundle again")


def exactly(handle: BinaryIO, start: int, size: int, end: int) -> bytes:
    """The bytes from `start` on; all of them must lie before `end`."""
    if not 0 <= start <= end - size:
        raise damaged("its list leads out of the file")
    handle.seek(start)
    data = handle.read(size)
    if len(data) != size:
        raise damaged("it is cut short")
    return data


def number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "little")


def read_entries(handle: BinaryIO, size: int) -> dict[str, Entry]:
    start, length, count = directory_of(handle, size)
    if count > MOST_FILES or length > LARGEST_DIRECTORY:
        raise damaged("it lists too many files")
    found: dict[str, Entry] = {}
    for name, header, bytes_ in listed(exactly(handle, start, length, size), count):
        if name in found:
            raise damaged(f"{name!r} stands twice")
        found[name] = Entry(header, data_start(handle, name, header, start), bytes_)
    check_distinct(found)
    before = 0
    for entry in sorted(found.values(), key=lambda e: (e.header, e.start)):
        if entry.header < before or entry.start + entry.size > start:
            raise damaged("two of its files share bytes")
        before = entry.start + entry.size
    return found


def directory_of(handle: BinaryIO, size: int) -> tuple[int, int, int]:
    """Where the list of files begins, its bytes, and how many files it has."""
    begin = max(0, size - END_SIZE - LONGEST_COMMENT - LOCATOR64_SIZE)
    tail = exactly(handle, begin, size - begin, size)
    at = tail.rfind(END)
    while at >= 0 and (at + END_SIZE > len(tail) or number(tail, at + 20, 2) != len(tail) - at - END_SIZE):
        at = tail.rfind(END, 0, at)
    if at < 0:
        raise damaged("it has no list of files")
    count, length, start = number(tail, at + 10, 2), number(tail, at + 12, 4), number(tail, at + 16, 4)
    if count != 0xFFFF and FULL not in (length, start):
        return start, length, count
    locator = tail[max(0, at - LOCATOR64_SIZE) : at]
    if len(locator) < LOCATOR64_SIZE or not locator.startswith(LOCATOR64):
        raise damaged("its list of files is not where it says")
    large = exactly(handle, number(locator, 8, 8), END64_SIZE, size)
    if not large.startswith(END64):
        raise damaged("its list of files is not where it says")
    return number(large, 48, 8), number(large, 40, 8), number(large, 32, 8)


def listed(data: bytes, count: int) -> Iterator[tuple[str, int, int]]:
    """Name, place of the header and bytes of each file; BundleError for what is compressed, encrypted or no file."""
    at = 0
    for _ in range(count):
        lengths = [number(data, at + field, 2) for field in (28, 30, 32)]  # of name, extra field, comment
        end = at + CENTRAL_SIZE + sum(lengths)
        if end > len(data) or not data.startswith(CENTRAL, at):
            raise damaged("its list is damaged")
        name, extra = data[at + CENTRAL_SIZE : end], at + CENTRAL_SIZE + lengths[0]
        path = name_of(name[: lengths[0]])
        size, header = number(data, at + 24, 4), number(data, at + 42, 4)
        if number(data, at + 10, 2) or number(data, at + 8, 2) & ENCRYPTED or number(data, at + 20, 4) != size:
            raise BundleError(f"{path!r} is compressed or encrypted: a packed bundle stores its files as they are")
        yield path, *withzip64(data[extra : extra + lengths[1]], size, header)[::-1]
        at = end
    if at != len(data):
        raise damaged("its list is damaged")


def name_of(data: bytes) -> str:
    try:
        return str(check_path(data.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise damaged("a name is no text") from error


def withzip64(extra: bytes, size: int, header: int) -> tuple[int, int]:
    """Size and place of the header, from the zip64 field where 32 bits do not hold them."""
    if FULL not in (size, header):
        return size, header
    at, wanted = 0, (16 if size == FULL else 0) + (8 if header == FULL else 0)
    while at + 4 <= len(extra):
        if number(extra, at, 2) == ZIP64 and wanted <= number(extra, at + 2, 2) <= len(extra) - at - 4:
            if size == FULL and number(extra, at + 4, 8) != number(extra, at + 12, 8):
                raise damaged("an entry's two sizes differ")
            large = number(extra, at + 4, 8) if size == FULL else size
            return large, number(extra, at + 4 + wanted - 8, 8) if header == FULL else header
        at += 4 + number(extra, at + 2, 2)
    raise damaged("a large file lacks its size")


def data_start(handle: BinaryIO, name: str, header: int, end: int) -> int:
    """Where a file's bytes begin: behind its own header, whose padding aligns them."""
    data = exactly(handle, header, LOCAL_SIZE, end)
    lengths = number(data, 26, 2), number(data, 28, 2)
    stored = data.startswith(LOCAL) and number(data, 8, 2) == 0 and not number(data, 6, 2) & ENCRYPTED
    if not stored or exactly(handle, header + LOCAL_SIZE, lengths[0], end) != name.encode():
        raise damaged(f"{name!r} is not stored as it is listed")
    return header + LOCAL_SIZE + sum(lengths)


def with_weights_in(data: bytes, packed: Packed, folder: str) -> bytes:
    """The ONNX file `data` of the bundle's `folder`, whose weights are read from the packed bundle itself: onnxruntime
    maps them from where they lie. Raises WireError for what is no ONNX file."""
    return b"".join(
        field_bytes(7, moved_graph(data, part, packed, folder)) if part.number == 7 else same_bytes(data, part)
        for part in fields(data, 0, len(data))
    )


def moved_graph(data: bytes, graph: Field, packed: Packed, folder: str) -> bytes:
    return b"".join(
        field_bytes(5, moved_tensor(data, part, packed, folder)) if part.number == 5 else same_bytes(data, part)
        for part in fields(data, graph.start, graph.end)
    )


def moved_tensor(data: bytes, tensor: Field, packed: Packed, folder: str) -> bytes:
    """A weight with another place, if it lies outside the graph."""
    parts = list(fields(data, tensor.start, tensor.end))
    place = dict(entry_of(data, part) for part in parts if part.number == 13)
    if not place:
        return data[tensor.start : tensor.end]
    entry = packed.entries[folder + place["location"]]
    place |= {"location": packed.path.name, "offset": str(entry.start + int(place.get("offset", "0")))}
    kept = [same_bytes(data, part) for part in parts if part.number != 13]
    added = [field_bytes(13, field_bytes(1, key) + field_bytes(2, value)) for key, value in place.items()]
    return b"".join([*kept, *added])


def entry_of(data: bytes, at: Field) -> tuple[str, str]:
    found = {part.number: text(data, part) for part in fields(data, at.start, at.end)}
    if 1 not in found:
        raise WireError("a weight's place without a name")
    return found[1], found.get(2, "")
