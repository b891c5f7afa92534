"""The initializers of any ONNX graph as weights that stream: float32 rows, transposed where the graph has columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path, PurePosixPath

import numpy as np
import onnx_ir as ir

from qsched_edge.errors import WeightsError
from qsched_edge.work.memory import LARGEST_CHUNK

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class GraphWeights:
    """Tensors by name; those in `transposed` are matrices [K, N] that are read as [N, K]."""

    tensors: dict[str, ir.TensorProtocol] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)

    def add(self, name: str, tensor: ir.TensorProtocol, transposed: bool = False) -> None:
        self.tensors[name] = tensor
        if transposed:
            self.transposed.add(name)

    def shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(int(d) for d in self.tensors[name].shape.numpy())
        return shape[::-1] if name in self.transposed else shape

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """float32 copy of rows `start` to `stop` of the first axis."""
        tensor, (_, *rest) = self.tensors[name], self.shape(name)
        if name in self.transposed:
            return matrix_columns(tensor, start, stop).T.astype(np.float32)
        width = prod(rest)
        return flat_values(tensor, start * width, stop * width).reshape(stop - start, *rest).astype(np.float32)


def flat_values(tensor: ir.TensorProtocol, start: int, stop: int) -> np.ndarray:
    """Values `start` to `stop` of a float tensor, flat; external ones are read from there.

    A mapped file would keep every page that was touched in the process's memory.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy().reshape(-1)[start:stop]
    dtype = tensor.dtype.numpy()
    return np.fromfile(tensor.path, dtype, stop - start, offset=(tensor.offset or 0) + start * dtype.itemsize)


def matrix_columns(tensor: ir.TensorProtocol, start: int, stop: int) -> np.ndarray:
    """Columns `start` to `stop` of a matrix."""
    rows, width = (int(d) for d in tensor.shape.numpy())
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy()[:, start:stop]
    if (start, stop) == (0, width):
        return flat_values(tensor, 0, rows * width).reshape(rows, width)
    found = np.empty((rows, stop - start), tensor.dtype.numpy())
    with Path(tensor.path).open("rb", buffering=0) as file:
        for row in range(rows):
            file.seek((tensor.offset or 0) + (row * width + start) * found.itemsize)
            file.readinto(found[row])
    return found


def extremes(tensor: ir.TensorProtocol) -> tuple[float, float]:
    """The smallest and the largest value of a float tensor, NaN if one is; a piece at a time."""
    low, high = np.inf, -np.inf
    for start in range(0, tensor.size, LARGEST_CHUNK):
        part = flat_values(tensor, start, min(start + LARGEST_CHUNK, tensor.size))
        low, high = np.minimum(low, part.min()), np.maximum(high, part.max())
    return float(low), float(high)


def raw_bytes(tensor: ir.TensorProtocol) -> np.ndarray:
    """uint8: the bytes as ONNX keeps them, without a mapping that stays."""
    if isinstance(tensor, ir.ExternalTensor):
        return np.fromfile(tensor.path, np.uint8, tensor.nbytes, offset=tensor.offset or 0)
    return np.frombuffer(tensor.tobytes(), np.uint8)


def check_external(model: ir.Model, folder: Path) -> None:
    """Raise WeightsError unless every external tensor lies in a plain file in the graph's own folder."""
    for tensor in tensors_of(model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = str(tensor.location)
        path = PurePosixPath(location)
        if path.is_absolute() or ".." in path.parts or "\\" in location or ":" in location:
            raise WeightsError(f"{tensor.name} reads its values from {location!r}: refused, they belong in {folder}")
        file = folder / path
        if any(part.is_symlink() for part in (file, *file.parents) if folder in part.parents):
            raise WeightsError(
                f"{location!r} is a symbolic link: refused, copy the folder with cp -rL to have plain files"
            )
        if not file.is_file() or (tensor.offset or 0) + max(tensor.length or 0, tensor.nbytes) > file.stat().st_size:
            raise WeightsError(f"{tensor.name} reads its values from {location!r}, which is missing or cut short")


def external_files(model: ir.Model) -> set[Path]:
    """The data files that a model reads, resolved."""
    return {Path(tensor.path).resolve() for tensor in tensors_of(model) if isinstance(tensor, ir.ExternalTensor)}


def tensors_of(model: ir.Model) -> list[ir.TensorProtocol]:
    """Every tensor of a model: initializers and attributes, in the graph, its subgraphs and its functions."""
    found = [
        v.const_value for graph in model.graphs() for v in graph.initializers.values() if v.const_value is not None
    ]
    owners: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for owner in owners:
        for node in ir.traversal.RecursiveGraphIterator(owner):
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR:
                    found.append(attribute.as_tensor())
                elif attribute.type == ir.AttributeType.TENSORS:
                    found.extend(attribute.as_tensors())
    return found
