"""How far a quantized graph's outputs are from the original's, in onnxruntime, on given or random inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from qsched_runtime.sessions import Feeds, session_options

from qsched_edge.errors import QuantizeError
from qsched_edge.foreign.probe_inputs import random_inputs, read_inputs

Arrays = dict[str, np.ndarray]
FREE_SIZES = (64, 16, 8, 224, 512, 1, 16000)  # of free axes; tried in this order until the original graph runs


@dataclass(frozen=True)
class Difference:
    """Of all float outputs together: |y - y'| / |y|, 20 log10 of its inverse, and the largest |y - y'|.

    Both are NaN where no float output can be compared. `equal` is the share of equal values in the other outputs (1.0
    if there are none), `outputs` how many floats were compared, `not_finite` how many were not because the original's
    are not finite. `reshaped` names outputs of another shape, which differ whole. `inputs` says where the inputs came
    from.
    """

    relative: float
    max_abs: float
    equal: float
    outputs: int
    inputs: str
    not_finite: int = 0
    reshaped: tuple[str, ...] = ()

    @property
    def sqnr(self) -> float:
        return float("inf") if self.relative == 0 else float(-20 * np.log10(self.relative))

    @property
    def unmoved(self) -> bool:
        """Not one output differs: the branch that was run may not read the weights at all."""
        compared = self.outputs > 0 or not self.not_finite
        return compared and not self.max_abs > 0 and self.equal == 1 and not self.reshaped

    def json(self) -> dict[str, Any]:
        """Numbers that are not finite (no float output, or an original of zeros) are null."""
        sqnr = None if self.unmoved else self.sqnr
        found = {**asdict(self), "sqnr_db": sqnr if sqnr is None else round(sqnr, 2)}
        return {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in found.items()}

    def lines(self) -> list[str]:
        """What the command line prints."""
        error = (
            f"relative {self.relative:.3e}, SQNR {self.sqnr:.1f} dB, max abs {self.max_abs:.3e}"
            f" over {self.outputs:,} outputs"
            if self.outputs
            else "no float output can be compared"
        )
        lines = [f"error  {error}; inputs: {self.inputs}"]
        if self.not_finite:
            lines.append(f"       {self.not_finite:,} values of the original's outputs are not finite: not compared")
        if self.unmoved:
            lines.append("       not one output differs: these inputs may not reach the weights; give --inputs")
        if self.equal < 1:
            lines.append(f"       {self.equal:.1%} of the integer outputs are equal")
        return [*lines, *(f"       {name}: it counts as different" for name in self.reshaped)]


def cpu_session(path: Path) -> Any:
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
    reference = cpu_session(original)
    if inputs is not None:
        feeds, origin = read_inputs(inputs, [i.name for i in reference.get_inputs()]), str(inputs)
        expected = attempt(reference, feeds)
        if isinstance(expected, str):
            raise QuantizeError(f"{original} does not run on {inputs}: {expected}")
    else:
        feeds, expected, origin = first_that_runs(original, reference, seed)
    del reference  # one graph in memory at a time
    found = attempt(cpu_session(quantized), feeds)
    if isinstance(found, str):
        raise QuantizeError(f"the quantized graph does not run where {original} does: {found}")
    return output_difference(expected, found, origin)


def first_that_runs(path: Path, reference: Any, seed: int) -> tuple[Feeds, Arrays, str]:
    model, last = ir.load(path), ""
    for size in FREE_SIZES:
        feeds = random_inputs(model, size, seed)
        expected = attempt(reference, feeds)
        if not isinstance(expected, str):
            return feeds, expected, f"random (seed {seed}), free axes {size}"
        last = expected
    raise QuantizeError(f"{path} does not run on random inputs ({last}): give some with --inputs FILE.npz")


def attempt(graph: Any, feeds: Feeds) -> Arrays | str:
    """The outputs by name, or the first line of onnxruntime's error."""
    try:
        values = graph.run(None, feeds)
    except Exception as error:  # onnxruntime's exception classes share no public base
        return str(error).splitlines()[0][:300]
    return dict(arrays_by_name(zip([output.name for output in graph.get_outputs()], values, strict=True)))


def arrays_by_name(outputs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays among the outputs, also those of sequences."""
    for name, value in outputs:
        if isinstance(value, list):
            yield from arrays_by_name((f"{name}[{i}]", part) for i, part in enumerate(value))
        elif isinstance(value, np.ndarray):
            yield name, value


def output_difference(expected: Arrays, found: Arrays, origin: str) -> Difference:
    """Output by output; raises QuantizeError where the original is finite and the quantized graph is not."""
    same = {n: (a, found[n]) for n, a in expected.items() if n in found and found[n].shape == a.shape}
    reshaped = [f"{n} has {shape_in(found, n)} instead of {a.shape}" for n, a in expected.items() if n not in same]
    floats = {name for name, a in expected.items() if np.issubdtype(a.dtype, np.floating)}
    others = [equal_share(*same[n]) if n in same else 0.0 for n in expected if n not in floats]
    a, b = (flat_joined([pair[i] for name, pair in same.items() if name in floats]) for i in (0, 1))
    finite = np.isfinite(a)
    if not np.isfinite(b[finite]).all():
        raise QuantizeError("the quantized graph gives values that are not finite where the original's are")
    a, b = a[finite], b[finite]
    return Difference(
        relative_error(a, b),
        float(np.abs(a - b).max()) if a.size else float("nan"),
        float(np.mean(others)) if others else 1.0,
        int(a.size),
        origin,
        int((~finite).sum()),
        tuple(reshaped),
    )


def shape_in(found: Arrays, name: str) -> str:
    return f"shape {found[name].shape}" if name in found else "no value"


def equal_share(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(a == b)) if a.size else 1.0


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |a|; infinite where a is zero and b is not, NaN for no values."""
    if not a.size:
        return float("nan")
    error, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(a))
    return error / norm if norm else (0.0 if error == 0 else float("inf"))


def flat_joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays]) if arrays else np.zeros(0)
