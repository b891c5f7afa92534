"""A graph's tensors, appended to its external data file while they are made, with a journal that survives a kill."""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qsched_edge.work.hashes import BLOCK
from qsched_edge.work.journal import entry_of, line_of
from qsched_edge.work.staging import JOURNAL, write_bytes

INLINE_BYTES = 256  # smaller tensors stay inside the graph file, where an external entry would cost as much
PAGE, LINE = 4096, 64  # alignment of large and small tensors, so that a runtime can map them


@dataclass(frozen=True)
class Stored:
    """One tensor on disk: `inline` holds the hex of a small one, else `offset` and `bytes` say where it lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    bytes: int = 0
    inline: str = ""

    @property
    def size(self) -> int:
        """Bytes of its values, wherever they lie."""
        return self.bytes + len(self.inline) // 2


@dataclass(frozen=True)
class Packed:
    """A tensor about to be stored: `data` are the bytes as ONNX keeps them, `dtype` and `shape` say what they mean."""

    name: str
    data: np.ndarray
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> Packed:
        return cls(name, array, {"float32": "FLOAT"}.get(array.dtype.name, array.dtype.name.upper()), array.shape)


class TensorStore:
    """Appends tensors to `folder`/`file`; what one weight became is recalled after an interruption, not made again.

    The journal has a checksum of each line and of the bytes that it speaks of: after a power cut, the work goes on
    behind the last weight of which both are whole.
    """

    def __init__(self, folder: Path, file: str) -> None:
        self.path, self.journal_path = folder / file, folder / JOURNAL
        self.file = self.path.open("r+b" if self.path.exists() else "w+b")
        self.journal: dict[str, list[Stored]] = {}
        self.checksum = 0  # of what was appended for the weight that is being stored
        self._recall()
        self.file.truncate()

    def __enter__(self) -> TensorStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.file.close()
        if kind is None:
            self.journal_path.unlink(missing_ok=True)

    def _recall(self) -> None:
        """Fill the journal from its file, as far as that and the data are whole; the file's position is their end."""
        lines = self.journal_path.read_bytes().splitlines(keepends=True) if self.journal_path.exists() else []
        for i, line in enumerate(lines):
            if not self._recall_line(line):
                write_bytes(self.journal_path, b"".join(lines[:i]))
                if i + 1 < len(lines) or line.endswith(b"\n"):
                    left = f"{len(lines) - i} of {len(lines)} weights are stored again"
                    print(f"{self.path} or its journal is damaged: {left}", file=sys.stderr)
                return

    def _recall_line(self, line: bytes) -> bool:
        """Whether the line is whole, and the data that it speaks of; if not, the position stays where they begin."""
        entry, start = entry_of(line), self.file.tell()
        if entry is None:
            return False
        checksum, left = 0, entry[1]["end"] - start
        while left > 0 and (block := self.file.read(min(left, BLOCK))):
            checksum, left = zlib.crc32(block, checksum), left - len(block)
        if left or checksum != entry[1]["checksum"]:
            self.file.seek(start)
            return False
        self.journal[entry[0]] = [Stored(**{**s, "shape": tuple(s["shape"])}) for s in entry[1]["stored"]]
        return True

    def weight(self, name: str, make: Callable[[], list[Packed]]) -> list[Stored]:
        """Store what `make` returns for the weight `name`, unless an interrupted run has."""
        if name not in self.journal:
            self.checksum = 0
            stored = [self._append(packed) for packed in make()]
            self.file.flush()
            os.fsync(self.file.fileno())
            entry = {"stored": [asdict(s) for s in stored], "end": self.file.tell(), "checksum": self.checksum}
            with self.journal_path.open("a") as handle:
                handle.write(line_of(name, entry))
            self.journal[name] = stored
        return self.journal[name]

    def _append(self, packed: Packed) -> Stored:
        data = np.ascontiguousarray(packed.data)
        if data.nbytes <= INLINE_BYTES and packed.dtype != "UINT4":
            return Stored(packed.name, packed.dtype, packed.shape, inline=data.tobytes().hex())
        step = PAGE if data.nbytes >= 2**20 else LINE
        self._write(b"\0" * (-self.file.tell() % step))
        offset = self.file.tell()
        self._write(data.data.cast("B") if data.nbytes else b"")
        return Stored(packed.name, packed.dtype, packed.shape, offset, data.nbytes)

    def _write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self.checksum = zlib.crc32(data, self.checksum)

    def value(self, stored: Stored) -> ir.Value:
        """The initializer that stands for a stored tensor."""
        dtype, shape = ir.DataType[stored.dtype], ir.Shape(stored.shape)
        if stored.inline:
            array = np.frombuffer(bytes.fromhex(stored.inline), dtype.numpy()).reshape(stored.shape)
            tensor: ir.TensorProtocol = ir.tensor(array, dtype=dtype, name=stored.name)
        else:
            tensor = ir.ExternalTensor(
                self.path.name,
                stored.offset,
                stored.bytes,
                dtype,
                shape=shape,
                name=stored.name,
                base_dir=self.path.parent,
            )
        return ir.Value(name=stored.name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)
