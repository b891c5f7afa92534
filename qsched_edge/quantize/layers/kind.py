"""What there is to know of a kind of layer: how its weight is read, encoded, emitted and found again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from qsched_edge.precision import Scheme
from qsched_edge.quantize.emit import Site
from qsched_edge.quantize.encode import WeightRows
from qsched_edge.quantize.store import Packed


@dataclass(frozen=True)
class Use:
    """How one reader uses a weight: its kind of layer, and whether the graph holds [K, N]; without a kind, `reason`."""

    kind: LayerKind | None = None
    transposed: bool = False
    reason: str = ""


@dataclass(frozen=True)
class IntegerOperand:
    """Where an operator has its integers: the input, the inputs that belong to it, and the bits of a value where no
    attribute says so (0: as its type says)."""

    weight: int
    companions: tuple[int, ...]
    bits: int = 0


@dataclass(frozen=True)
class Window:
    """How a convolution reads its input: sizes (rows, columns), `pads` top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    groups: int


class LayerKind(ABC):
    """One kind of layer; a kind that holds integers says with which operators, before and after.

    `operators` are the float operators and which of their inputs may be a weight of this kind, `between` those that
    may stand between the weight and them, `integer_operators` those that read integers. Where the layer `multiplies`
    its input by the weight, that input can be observed and the weight's width be chosen.
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    multiplies: ClassVar[bool] = False
    operators: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    between: ClassVar[tuple[str, ...]] = ()
    integer_operators: ClassVar[Mapping[str, IntegerOperand]] = {}

    @abstractmethod
    def encode(self, rows: WeightRows, scheme: Scheme) -> list[Packed]:
        """The tensors that are stored for a weight."""

    @abstractmethod
    def stored_bytes(self, shape: tuple[int, ...], scheme: Scheme) -> int:
        """The bytes of what `encode` returns for a weight of `shape`, whatever its values are."""

    @abstractmethod
    def emit(self, site: Site, parts: list[ir.Value]) -> None:
        """Put operators that read `parts`, what `encode` returned, in the place of those that read the float."""

    def precision(self, site: Site) -> str:
        """The name of what is really there: W4A16, FP16, ..."""
        return site.scheme.name

    def use(self, value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
        """What `node`, one of `operators` or `between`, makes of its input `index`, which is `value`."""
        return Use(self) if index in self.operators[node.op_type] else Use(reason=f"{node.op_type}'s input or bias")

    def attach(self, graph: ir.Graph, weight: ir.Value, nodes: Sequence[ir.Node]) -> None:
        """Let `nodes`, which use another initializer as this kind, read `weight` in the form that `emit` expects."""
        for node in nodes:
            node.replace_input_with(self.operators[node.op_type][0], weight)

    def opset(self, scheme: Scheme, dtype: ir.DataType | None) -> int:
        """The oldest opset whose operators hold a weight of a graph that computes with `dtype`; 0: any."""
        return 0

    def layers(self, weight: ir.Value) -> list[ir.Node]:
        """The float operators that read a weight, also behind what stands between."""
        return [node for node, _ in weight.uses()]

    def window(self, weight: ir.Value) -> Window | None:
        """How the layer reads its input, if not in rows of the weight's width."""
        return None

    def weight_shape(self, node: ir.Node, tensor: ir.TensorProtocol, bits: int) -> tuple[int, ...]:
        """Of the weight that `node`, one of `integer_operators`, reads as `tensor`."""
        return tuple(int(d) for d in tensor.shape.numpy())

    def rounds_inputs(self, node: ir.Node) -> bool:
        """Whether `node`, one of `integer_operators`, has 8-bit inputs too."""
        return True


def rank_of(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()
