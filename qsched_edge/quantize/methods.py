"""The methods by name; most are `(weight float32 [N, K], Scheme, Moments or None) -> QuantizedMatrix`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qsched_edge.errors import QuantizeError, unknown_name
from qsched_edge.lookup import lookup
from qsched_edge.precision import Scheme
from qsched_edge.quantize.integers import QuantizedMatrix
from qsched_edge.quantize.moments import Moments

Method = Callable[[np.ndarray, Scheme, Moments | None], QuantizedMatrix]


@dataclass(frozen=True)
class Entry:
    """Where a method lives ("module:function"), whether it uses the moments of a layer's inputs, whether it can do
    without having seen the model run, and the method for tables, whose rows are looked up and have no inputs ("":
    itself).

    `imports` is a function that brings what the method imports when it is first used.

    A method that takes the `whole` backbone is a function of another kind, see whole_graph.py; `tables` then is the
    method for all other components.
    """

    path: str
    observes: bool = False
    blind: bool = True
    tables: str = ""
    whole: bool = False
    imports: str = ""


COMPRESSOR = "qsched_edge.quantize.neural_compressor:quant_tensor"
METHODS = {
    "rtn": Entry("qsched_edge.quantize.neural_compressor:round_to_nearest", imports=COMPRESSOR),
    "mse": Entry("qsched_edge.quantize.scale_search:least_squared_error", observes=True),
    "gptq": Entry("qsched_edge.quantize.gptq:gptq", observes=True, blind=False, tables="mse"),
    "smoothquant": Entry("qsched_edge.quantize.whole_graph:smoothquant", blind=False, tables="rtn", whole=True),
}


def entry(name: str) -> Entry:
    """Raises QuantizeError for a name that is no method."""
    if name not in METHODS:
        raise QuantizeError(unknown_name("quantization method", name, METHODS))
    return METHODS[name]


def method(name: str) -> Method:
    """One that takes weight by weight; what it imports is in memory afterwards."""
    found = entry(name)
    if found.imports:
        lookup(found.imports)()
    return lookup(found.path)
