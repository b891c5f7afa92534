"""The methods by name, and what each can do. A registry: it imports nothing that quantizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qsched_edge.errors import QuantizeError, unknown_name
from qsched_edge.lookup import lookup

if TYPE_CHECKING:
    import numpy as np

    from qsched_edge.precision import Scheme
    from qsched_edge.quantize.integers import QuantizedMatrix
    from qsched_edge.quantize.moments import Moments

    Quantizer = Callable[[np.ndarray, Scheme, Moments | None], QuantizedMatrix]


@dataclass(frozen=True)
class Asked:
    """What an export asks of its method: widths, whether a target size chooses them, whether memory is limited, and
    whether the model is observed."""

    bits: int
    activation_bits: int = 16
    target: bool = False
    limited: bool = False
    observing: bool = True


@dataclass(frozen=True)
class WeightMethod:
    """Takes one weight after another: a function (weight float32 [N, K], Scheme, Moments or None) -> QuantizedMatrix at
    `path` ("module:function").

    `observes`: it uses the moments of a layer's inputs; `blind`: it can do without having seen the model run. `tables`
    is the method for tables, whose rows are looked up and have no inputs ("": itself). `imports` is a function that
    brings what the method imports when it is first used.
    """

    name: str
    path: str
    observes: bool = False
    blind: bool = True
    tables: str = ""
    imports: str = ""

    def check(self, asked: Asked) -> None:
        """Raise QuantizeError for what the method cannot do."""
        check_observed(self.name, self.blind, asked)

    def quantizer(self) -> Quantizer:
        """The function; what it imports is in memory afterwards."""
        if self.imports:
            lookup(self.imports)()
        return lookup(self.path)


@dataclass(frozen=True)
class WholeGraphMethod:
    """Takes the whole backbone: a function (graph, feeds, kept, target) -> names of integer weights, see
    whole_graph.py. `tables` is the method for tables and for all other components."""

    name: str
    path: str
    tables: str
    observes: bool = False
    blind: bool = False

    def check(self, asked: Asked) -> None:
        """Raise QuantizeError for what the method cannot do."""
        check_observed(self.name, self.blind, asked)
        if (asked.bits, asked.activation_bits, asked.target) != (8, 8, False):
            raise QuantizeError(f"{self.name} is W8A8 without a target size: give --bits 8 --activation-bits 8")
        if asked.limited:
            raise QuantizeError(f"{self.name} holds the whole backbone in memory: leave --max-ram out, or use rtn")

    def quantizer(self) -> Callable[..., list[str]]:
        return lookup(self.path)


def check_observed(name: str, blind: bool, asked: Asked) -> None:
    if not asked.observing and asked.target:
        raise QuantizeError("a target size is reached by observing the model: --calib-count must not be 0")
    if not asked.observing and not blind:
        raise QuantizeError(f"{name} observes the model: --calib-count must not be 0")


Method = WeightMethod | WholeGraphMethod
COMPRESSOR = "qsched_edge.quantize.neural_compressor:quant_tensor"
METHODS: dict[str, Method] = {
    "rtn": WeightMethod("rtn", "qsched_edge.quantize.neural_compressor:round_to_nearest", imports=COMPRESSOR),
    "mse": WeightMethod("mse", "qsched_edge.quantize.scale_search:least_squared_error", observes=True),
    "gptq": WeightMethod("gptq", "qsched_edge.quantize.gptq:gptq", observes=True, blind=False, tables="mse"),
    "smoothquant": WholeGraphMethod("smoothquant", "qsched_edge.quantize.whole_graph:smoothquant", tables="rtn"),
}


def method_named(name: str) -> Method:
    """Raises QuantizeError for a name that is no method."""
    if name not in METHODS:
        raise QuantizeError(unknown_name("quantization method", name, METHODS))
    return METHODS[name]


def quantizer_of(name: str) -> Any:
    return method_named(name).quantizer()
