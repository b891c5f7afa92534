"""The methods by name: those that take weight by weight, and those that take a graph as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qsched_edge.errors import QuantizeError, unknown_name
from qsched_edge.lookup import lookup


@dataclass(frozen=True)
class Method:
    """A function at `address`, "module:function".

    `observes` says whether it uses the moments of a layer's inputs, `blind` whether it can do without having seen the
    model run. `tables` names the method for what this one does not take ("": itself). `imports` is a function that
    brings what the method imports when it is first used.
    """

    name: str
    address: str
    observes: bool = False
    blind: bool = True
    tables: str = ""
    imports: str = ""

    def check(self, *, bits: int, activation_bits: int, has_target: bool, ram_limited: bool, observes: bool) -> None:
        """Raises QuantizeError for settings it cannot serve; `observes`: the model is run on calibration prompts."""
        if not observes and not self.blind:
            raise QuantizeError(f"{self.name} observes the model: --calib-count must not be 0")

    def load(self) -> Any:
        """The function; what it imports is in memory afterwards."""
        if self.imports:
            lookup(self.imports)()
        return lookup(self.address)


class WeightMethod(Method):
    """`(weight float32 [N, K], Scheme, Moments or None) -> QuantizedMatrix`; tables, whose rows are looked up and have
    no inputs, may need another one."""


class WholeGraphMethod(Method):
    """Takes the backbone's 32-bit graph and recorded feeds, see whole_graph.py; `tables` is for other components."""

    def check(self, *, bits: int, activation_bits: int, has_target: bool, ram_limited: bool, observes: bool) -> None:
        if not observes:
            raise QuantizeError(f"{self.name} observes the model: --calib-count must not be 0")
        if (bits, activation_bits, has_target) != (8, 8, False):
            raise QuantizeError(f"{self.name} is W8A8 without a target size: give --bits 8 --activation-bits 8")
        if ram_limited:
            raise QuantizeError(f"{self.name} holds the whole backbone in memory: leave --max-ram out, or use rtn")


METHODS: dict[str, Method] = {
    "rtn": WeightMethod(
        "rtn",
        "qsched_edge.quantize.neural_compressor:round_to_nearest",
        imports="qsched_edge.quantize.neural_compressor:quant_tensor",
    ),
    "mse": WeightMethod("mse", "qsched_edge.quantize.scale_search:least_squared_error", observes=True),
    "gptq": WeightMethod("gptq", "qsched_edge.quantize.gptq:gptq", observes=True, blind=False, tables="mse"),
    "smoothquant": WholeGraphMethod(
        "smoothquant", "qsched_edge.quantize.whole_graph:smoothquant", blind=False, tables="rtn"
    ),
}


def method_named(name: str) -> Method:
    """Raises QuantizeError for a name that is no method."""
    if name not in METHODS:
        raise QuantizeError(unknown_name("quantization method", name, METHODS))
    return METHODS[name]


def weight_method(name: str) -> WeightMethod:
    """One that takes weight by weight; raises QuantizeError for any other name."""
    found = method_named(name)
    if not isinstance(found, WeightMethod):
        raise QuantizeError(f"{name} takes whole graphs, not single weights: use {found.tables}")
    return found
