"""A graph's tensors, written one after the other into its external data file while they are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

INLINE_BYTES = 256  # smaller tensors stay inside the graph file, where an external entry would cost as much
PAGE, LINE = 4096, 64  # alignment of large and small tensors, so that a runtime can map them

TYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "uint8": ir.DataType.UINT8,
    "int64": ir.DataType.INT64,
}


class TensorStore:
    """Appends arrays to `path` and describes each as an initializer of the graph."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("wb")

    def __enter__(self) -> TensorStore:
        return self

    def __exit__(self, *reason: object) -> None:
        self.file.close()

    def add(self, name: str, array: np.ndarray) -> ir.Value:
        return self.add_packed(name, array, TYPES[array.dtype.name], array.shape)

    def add_packed(self, name: str, array: np.ndarray, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
        """`array` holds the bytes as ONNX stores them; `dtype` and `shape` say what they mean (UINT4 packs two)."""
        data = np.ascontiguousarray(array)
        if data.nbytes <= INLINE_BYTES and dtype != ir.DataType.UINT4:
            tensor: ir.TensorProtocol = ir.tensor(data.reshape(shape), name=name)
        else:
            step = PAGE if data.nbytes >= 2**20 else LINE
            self.file.write(b"\0" * (-self.file.tell() % step))
            offset = self.file.tell()
            self.file.write(data.tobytes())
            tensor = ir.ExternalTensor(
                self.path.name, offset, data.nbytes, dtype, shape=ir.Shape(shape), name=name, base_dir=self.path.parent
            )
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
