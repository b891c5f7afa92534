"""A graph's tensors, appended to its external data file while they are made, with a journal that survives a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from qsched_edge.work.staging import JOURNAL

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
    """Appends tensors to `folder`/`file`; what one weight became is recalled after an interruption, not made again."""

    def __init__(self, folder: Path, file: str) -> None:
        self.path, self.journal_path = folder / file, folder / JOURNAL
        self.journal = dict(self._entries())
        end = max((s.offset + s.bytes for stored in self.journal.values() for s in stored), default=0)
        self.file = self.path.open("r+b" if self.path.exists() else "w+b")
        self.file.truncate(end)
        self.file.seek(end)

    def __enter__(self) -> TensorStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.file.close()
        if kind is None:
            self.journal_path.unlink(missing_ok=True)

    def _entries(self) -> list[tuple[str, list[Stored]]]:
        """Whole lines of the journal; one that a kill cut off is dropped."""
        if not self.journal_path.exists():
            return []
        whole = self.journal_path.read_bytes().rpartition(b"\n")[0]
        self.journal_path.write_bytes(whole + b"\n" if whole else b"")
        lines = [json.loads(line) for line in whole.splitlines()]
        return [(name, [Stored(**{**s, "shape": tuple(s["shape"])}) for s in stored]) for name, stored in lines]

    def weight(self, name: str, make: Callable[[], list[Packed]]) -> list[Stored]:
        """Store what `make` returns for the weight `name`, unless an interrupted run has."""
        if name not in self.journal:
            stored = [self._append(packed) for packed in make()]
            self.file.flush()
            os.fsync(self.file.fileno())
            with self.journal_path.open("a") as handle:
                handle.write(json.dumps([name, [asdict(s) for s in stored]]) + "\n")
            self.journal[name] = stored
        return self.journal[name]

    def _append(self, packed: Packed) -> Stored:
        data = np.ascontiguousarray(packed.data)
        if data.nbytes <= INLINE_BYTES and packed.dtype != "UINT4":
            return Stored(packed.name, packed.dtype, packed.shape, inline=data.tobytes().hex())
        step = PAGE if data.nbytes >= 2**20 else LINE
        self.file.write(b"\0" * (-self.file.tell() % step))
        offset = self.file.tell()
        self.file.write(data.data)
        return Stored(packed.name, packed.dtype, packed.shape, offset, data.nbytes)

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
