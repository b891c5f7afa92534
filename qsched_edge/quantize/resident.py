"""Does onnxruntime keep a graph's weights packed? Memory of a fresh process that loads it, against the file's bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from qsched_edge.errors import QuantizeError

WORTH_MEASURING = 50 * 2**20  # bytes of a graph; below, onnxruntime's own memory is most of what one would measure
LOUD = 1.6  # times the file

# a session without weights first: what onnxruntime itself takes is not the graph's
CHILD = """
import json, sys
from pathlib import Path
import onnxruntime
from qsched_runtime.sessions import Graph
from qsched_edge.memory import current_bytes, peak_bytes
onnxruntime.InferenceSession(bytes.fromhex(sys.argv[2]), providers=["CPUExecutionProvider"])
before, peak_before = current_bytes(), peak_bytes()
graph = Graph(Path(sys.argv[1]), ["CPUExecutionProvider"], memory="low")
print(json.dumps([current_bytes() - before, peak_bytes() - peak_before]))
"""


@dataclass(frozen=True)
class Resident:
    """Bytes of the graph's files; growth of the resident set of a process that loads it, and of its peak."""

    file: int
    growth: int
    peak: int

    @property
    def ratio(self) -> float:
        return self.growth / self.file

    @property
    def line(self) -> str:
        """What the command line prints; a graph that does not stay packed says so first."""
        said = (
            f"in memory {self.growth / 2**20:.0f} MiB, {self.ratio:.2f} times the file; "
            f"{self.peak / 2**20:.0f} MiB at most while it loads"
        )
        return said if self.ratio <= LOUD else f"WARNING: weights do not stay packed: {said}"


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


def resident(graph: Path) -> Resident:
    """Load `graph` with memory="low" in a process of its own and measure; raises QuantizeError if it cannot load."""
    command = [sys.executable, "-c", CHILD, str(graph), without_weights().hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise QuantizeError(f"onnxruntime cannot load {graph}: {(done.stderr.splitlines() or ['killed'])[-1]}")
    growth, peak = json.loads(done.stdout)
    return Resident(file_bytes(graph), growth, peak)


def resident_if_large(graph: Path) -> Resident | None:
    """`resident` for a graph that is large enough for the figure to mean something."""
    return resident(graph) if file_bytes(graph) > WORTH_MEASURING else None
