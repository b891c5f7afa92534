"""Arrays that a graph is run on: a file's, or random ones that fit its input types."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import onnx_ir as ir
from numpy.lib.npyio import NpzFile
from qsched_runtime.sessions import Feeds

from qsched_edge.errors import QuantizeError

CHANNELS = 3  # of a picture [batch, ?, height, width] that does not say
TO_TABLES = {  # operators that hand integers on to a table
    "Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Slice", "Concat", "Expand", "Where", "Flatten", "Transpose",
    "Split", "Clip", "Add", "Sub", "Gather",
}  # fmt: skip


def read_inputs(path: Path, wanted: list[str]) -> Feeds:
    """The arrays of an .npz by input name; every input `wanted` must be there."""
    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, NpzFile):
            raise ValueError("it holds one array without a name")
        with arrays:
            feeds = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise QuantizeError(f"{path} cannot be read as .npz ({error}): write it with numpy.savez") from error
    missing = [name for name in wanted if name not in feeds]
    if missing:
        raise QuantizeError(f"{path} lacks {', '.join(missing)}: the graph's inputs are {', '.join(wanted)}")
    return {name: feeds[name] for name in wanted}


def random_inputs(model: ir.Model, size: int, seed: int) -> Feeds:
    """Normal floats; integers below the smallest table they index, or 1 if they index none."""
    generator, feeds = np.random.default_rng(seed), {}
    for value in model.graph.inputs:
        if value.name in model.graph.initializers:
            continue
        if value.shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
            raise QuantizeError(f"input {value.name!r} has no shape or no numeric type: give --inputs FILE.npz")
        shape, dtype = free_shape(value.shape, size), value.dtype.numpy()
        if np.issubdtype(dtype, np.integer):
            limit = table_rows(value)
            feeds[str(value.name)] = (generator.integers(0, limit, shape) if limit else np.ones(shape)).astype(dtype)
        elif dtype == np.bool_:
            feeds[str(value.name)] = np.ones(shape, dtype)
        else:
            feeds[str(value.name)] = generator.standard_normal(shape).astype(dtype)
    return feeds


def free_shape(shape: ir.Shape, size: int) -> tuple[int, ...]:
    """Free axes: one picture or sentence, three channels, `size` of the rest."""

    def free(axis: int) -> int:
        name = str(getattr(shape[axis], "value", "") or "").lower()
        if "batch" in name or (axis == 0 and shape.rank() > 1):
            return 1
        return CHANNELS if axis == 1 and shape.rank() == 4 else size

    return tuple(d if isinstance(d, int) and d > 0 else free(axis) for axis, d in enumerate(shape))


def table_rows(value: ir.Value) -> int:
    """Rows of the smallest table that these integers index, directly or reshaped; 0 if there is none."""
    rows: list[int] = []
    todo, seen = [value], set()
    while todo:
        current = todo.pop()
        for node, index in current.uses():
            if node.op_type in ("Gather", "GatherBlockQuantized") and index == 1:
                rows += table_size(node.inputs[0], node.attributes.get_int("axis", 0))
            elif node.op_type in TO_TABLES and node not in seen:
                seen.add(node)
                todo.extend(node.outputs)
    return min(rows, default=0)


def table_size(table: ir.Value | None, axis: int) -> Iterator[int]:
    tensor = table.const_value if table is not None else None
    if tensor is not None and tensor.shape.rank() > 1:
        yield int(tensor.shape.numpy()[axis])
