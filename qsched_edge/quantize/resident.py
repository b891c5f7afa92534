"""Does onnxruntime keep a graph's weights packed? Memory of a fresh process that loads it, against the file's bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from qsched_edge.errors import QuantizeError

WORTH_MEASURING = 50 * 2**20  # bytes of a graph; below, onnxruntime's own memory is most of what one would measure
LOUD = 1.6  # times the packed bytes; unpacked, 8 bits take four times theirs and 4 bits eight times
MENTIONED = 2**20  # bytes of float16
WIDENED = 4  # times the float16 bytes: float32, and the copy that some kernels lay out anew

# a session without weights first: what onnxruntime itself takes is not the graph's
CHILD = """
import json, sys
from pathlib import Path
import onnxruntime
from qsched_runtime.sessions import Graph
from qsched_edge.work.memory import current_bytes, peak_bytes
onnxruntime.InferenceSession(bytes.fromhex(sys.argv[2]), providers=["CPUExecutionProvider"])
before, peak_before = current_bytes(), peak_bytes()
graph = Graph(Path(sys.argv[1]), ["CPUExecutionProvider"], memory="low")
print(json.dumps([current_bytes() - before, peak_bytes() - peak_before]))
"""


@dataclass(frozen=True)
class Resident:
    """Bytes of the graph's files and of the float16 values in them; growth of the resident set of a process that loads
    it, and of its peak."""

    file: int
    float16: int
    growth: int
    peak: int

    @property
    def ratio(self) -> float:
        return self.growth / self.file

    @property
    def packed(self) -> bool:
        """Is the growth no more than what floats, which are widened to float32, and packed integers take?"""
        return self.growth <= LOUD * (self.file - self.float16) + WIDENED * self.float16

    @property
    def line(self) -> str:
        """What the command line prints; a graph that does not stay packed says so first."""
        floats = f" ({self.float16 / 2**20:.0f} MiB of it float16, widened at load)" if self.float16 > MENTIONED else ""
        said = (
            f"in memory {self.growth / 2**20:.0f} MiB, {self.ratio:.2f} times the file{floats}; "
            f"{self.peak / 2**20:.0f} MiB at most while it loads"
        )
        return said if self.packed else f"WARNING: weights do not stay packed: {said}"


def without_weights() -> bytes:
    """The smallest graph."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "empty", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def file_bytes(graph: Path) -> int:
    """The graph and its external data."""
    data = graph.with_name(f"{graph.name}_data")
    return graph.stat().st_size + (data.stat().st_size if data.is_file() else 0)


def float16_bytes(graph: Path) -> int:
    """Of the graph's float16 initializers, without reading external data."""
    import onnx_ir as ir

    tensors = (value.const_value for value in ir.load(graph).graph.initializers.values())
    return sum(t.nbytes for t in tensors if t is not None and t.dtype == ir.DataType.FLOAT16)


def resident(graph: Path) -> Resident:
    """Load `graph` with memory="low" in a process of its own and measure; raises QuantizeError if it cannot load."""
    command = [sys.executable, "-c", CHILD, str(graph), without_weights().hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise QuantizeError(f"onnxruntime cannot load {graph}: {(done.stderr.splitlines() or ['killed'])[-1]}")
    growth, peak = json.loads(done.stdout)
    return Resident(file_bytes(graph), float16_bytes(graph), growth, peak)


def resident_if_large(graph: Path) -> Resident | None:
    """`resident` for a graph that is large enough for the figure to mean something."""
    return resident(graph) if file_bytes(graph) > WORTH_MEASURING else None
