"""How far a quantized graph's outputs are from the original's, in onnxruntime, on given or random inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from qsched_runtime.sessions import session_options

from qsched_edge.errors import QuantizeError

Feeds = dict[str, np.ndarray]
SIZES = (64, 16, 8, 224, 512, 1, 16000)  # of free axes; tried in this order until the original graph runs
CHANNELS = 3  # of a picture [batch, ?, height, width] that does not say
THROUGH = {  # operators that hand integers on to a table
    "Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Slice", "Concat", "Expand", "Where", "Flatten", "Transpose",
    "Split", "Clip", "Add", "Sub", "Gather",
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """Of all float outputs together: |y - y'| / |y|, 20 log10 of its inverse, and the largest |y - y'|.

    `equal` is the share of equal values in the other outputs (1.0 if there are none). `inputs` says where the inputs
    came from, `outputs` how many values were compared.
    """

    relative: float
    max_abs: float
    equal: float
    outputs: int
    inputs: str

    @property
    def sqnr(self) -> float:
        return float("inf") if self.relative == 0 else float(-20 * np.log10(self.relative))


def session(path: Path) -> Any:
    """An onnxruntime CPU session; QuantizeError in one line if the graph cannot be loaded."""
    import onnxruntime as ort

    options = session_options("low", None)
    options.log_severity_level = 4  # sizes that do not fit are tried on purpose, and every error is raised as well
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exception classes share no public base
        raise QuantizeError(f"onnxruntime cannot load {path}: {str(error).splitlines()[0]}") from error


def compare(original: Path, quantized: Path, inputs: Path | None, seed: int) -> Difference:
    """Run both graphs on the arrays of the .npz `inputs`, or on random ones that fit the original's input types."""
    reference = session(original)
    if inputs is not None:
        feeds, origin = read_inputs(inputs, reference), str(inputs)
        expected = attempt(reference, feeds)
        if isinstance(expected, str):
            raise QuantizeError(f"{original} does not run on {inputs}: {expected}")
    else:
        feeds, expected, origin = first_that_runs(original, reference, seed)
    found = attempt(session(quantized), feeds)
    if isinstance(found, str):
        raise QuantizeError(f"the quantized graph does not run where {original} does: {found}")
    return difference(expected, found, origin)


def first_that_runs(path: Path, reference: Any, seed: int) -> tuple[Feeds, list[np.ndarray], str]:
    model, last = ir.load(path), ""
    for size in SIZES:
        feeds = random_inputs(model, size, seed)
        expected = attempt(reference, feeds)
        if not isinstance(expected, str):
            return feeds, expected, f"random (seed {seed}), free axes {size}"
        last = expected
    raise QuantizeError(f"{path} does not run on random inputs ({last}): give some with --inputs FILE.npz")


def attempt(graph: Any, feeds: Feeds) -> list[np.ndarray] | str:
    """The outputs, or the first line of onnxruntime's error."""
    try:
        return graph.run(None, feeds)
    except Exception as error:  # onnxruntime's exception classes share no public base
        return str(error).splitlines()[0][:300]


def read_inputs(path: Path, reference: Any) -> Feeds:
    """The arrays of an .npz by input name; every input of the graph must be there."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            feeds = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise QuantizeError(f"{path} cannot be read as .npz ({error}): write it with numpy.savez") from error
    wanted = [i.name for i in reference.get_inputs()]
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
                rows += rows_of(node.inputs[0], node.attributes.get_int("axis", 0))
            elif node.op_type in THROUGH and node not in seen:
                seen.add(node)
                todo.extend(node.outputs)
    return min(rows, default=0)


def rows_of(table: ir.Value | None, axis: int) -> Iterator[int]:
    tensor = table.const_value if table is not None else None
    if tensor is not None and tensor.shape.rank() > 1:
        yield int(tensor.shape.numpy()[axis])


def difference(expected: list[np.ndarray], found: list[np.ndarray], origin: str) -> Difference:
    floats = [np.issubdtype(a.dtype, np.floating) if isinstance(a, np.ndarray) else False for a in expected]
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if isinstance(a, np.ndarray)]
    a, b = (joined([pair[i] for pair, wide in zip(pairs, floats, strict=True) if wide]) for i in (0, 1))
    if a.size and not np.isfinite(b[np.isfinite(a)]).all():
        raise QuantizeError("the quantized graph gives values that are not finite where the original's are")
    a, b = a[np.isfinite(a)], b[np.isfinite(a)]
    others = [np.mean(x == y) for (x, y), wide in zip(pairs, floats, strict=True) if not wide and x.shape == y.shape]
    norm = float(np.linalg.norm(a))
    error = float(np.linalg.norm(a - b))
    relative = error / norm if norm else (0.0 if error == 0 else float("inf"))
    largest = float(np.abs(a - b).max()) if a.size else 0.0
    return Difference(relative, largest, float(np.mean(others)) if others else 1.0, int(a.size), origin)


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays]) if arrays else np.zeros(0)
