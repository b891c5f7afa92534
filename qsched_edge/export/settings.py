"""What an export is asked to do, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qsched_edge.choices import Choices
from qsched_edge.observe.allocation import Target
from qsched_edge.observe.settings import ObservedPrompts
from qsched_edge.precision import Scheme
from qsched_edge.quantize.methods import Asked, Method, WholeGraphMethod, method_named
from qsched_edge.work.memory import RamLimit

if TYPE_CHECKING:
    from qsched_edge.checkpoint.recipes import Recipe


@dataclass(frozen=True)
class ExportSettings:
    """`bits` 2, 3, 4, 8, 16 or 32 for the weights, `activation_bits` 8 or 16; `method` names the quantizer; `observed`
    are the prompts that it may watch the model with; `target` lets the backbone's widths be chosen by weight;
    `portable` graphs have attention in ONNX's own operators."""

    bits: int = 4
    method: str = "rtn"
    choices: Choices = field(default_factory=Choices)
    ram: RamLimit = field(default_factory=RamLimit)
    activation_bits: int = 16
    observed: ObservedPrompts = field(default_factory=ObservedPrompts)
    target: Target | None = None
    portable: bool = False

    def __post_init__(self) -> None:
        limited = self.ram.limit is not None
        observing = self.observed.count > 0
        self.entry.check(Asked(self.bits, self.activation_bits, self.target is not None, limited, observing))

    @property
    def entry(self) -> Method:
        """What the registry says of the method."""
        return method_named(self.method)

    @property
    def precision(self) -> str:
        """W4A16, FP16, ...: what the weights get that no recipe keeps."""
        return Scheme(self.bits, activation_bits=self.activation_bits).name

    @property
    def suffix(self) -> str:
        """Of the bundle's folder where no output is named: w4, w8a8."""
        return f"w{self.bits}{'' if self.activation_bits == 16 else f'a{self.activation_bits}'}"

    def scheme(self, recipe: Recipe, component: str, weight: str, kind: str = "", bits: int | None = None) -> Scheme:
        """What `weight` gets when the rest gets `bits` (default: the settings')."""
        method = self.entry.tables if kind == "embedding" or self.whole else ""
        return recipe.scheme(component, weight, bits or self.bits, method or self.method, self.activation_bits)

    @property
    def whole(self) -> bool:
        """Does the method take the backbone's graph as a whole?"""
        return isinstance(self.entry, WholeGraphMethod)

    @property
    def uses_moments(self) -> bool:
        return self.entry.observes and self.observed.count > 0 and self.bits < 16

    @property
    def observes(self) -> bool:
        return self.uses_moments or self.target is not None or self.whole


def target_of(size: int | None, ratio: float | None) -> Target | None:
    """None where neither is given; both are refused."""
    return None if size is None and ratio is None else Target(size, ratio)
