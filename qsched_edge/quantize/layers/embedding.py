"""Tables whose rows are looked up: com.microsoft.GatherBlockQuantized in the place of Gather."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import ClassVar

import onnx_ir as ir

from qsched_edge.precision import CHANNEL, GROUP_SIZES, Scheme
from qsched_edge.quantize.emit import CONTRIB, Site, make_node, replace_node
from qsched_edge.quantize.encode import WeightRows, laid_out
from qsched_edge.quantize.integers import pack
from qsched_edge.quantize.layers.kind import IntegerOperand, LayerKind, Use, rank_of
from qsched_edge.quantize.layout import BlockLayout
from qsched_edge.quantize.store import Packed

SMALLEST_TABLE = 2**17  # values; smaller ones (positions, attention biases) stay: little to save, much to lose


class Embedding(LayerKind):
    """A table [V, D] of a Gather along its first axis."""

    name, noun = "embedding", "a table"
    operators: ClassVar = {"Gather": (0,)}
    integer_operators: ClassVar = {"GatherBlockQuantized": IntegerOperand(0, (2, 3), bits=4)}

    def layout(self, scheme: Scheme, width: int) -> BlockLayout:
        """GatherBlockQuantized takes 4 and 8 bits.

        Its rows are whole bytes, and up to onnxruntime 1.24 it misreads 4-bit zero points where a row has an odd number
        of blocks: a smaller group or 8 bits avoid both.
        """
        largest = scheme.group_size or GROUP_SIZES[-1]
        if scheme.weight_bits < 8 and width % 2 == 0:
            for group in reversed([g for g in GROUP_SIZES if g <= largest]):
                fitting = replace(scheme, group_size=group)
                block = fitting.group_for(width)
                if -(-width // block) % 2 == 0:
                    return BlockLayout(scheme if scheme.group_size == CHANNEL else fitting, 4, block)
        return BlockLayout(scheme, 8, replace(scheme, group_size=largest).group_for(width))

    def encode(self, rows: WeightRows, scheme: Scheme) -> list[Packed]:
        """uint8 [V, D bits / 8], scales [V, blocks], zero points packed by rows."""
        layout = self.layout(scheme, rows.width)
        found = laid_out(rows, layout, padded=False)
        arrays = {"q": pack(found.q, layout.bits), "scale": found.scale, "zero": pack(found.zero, layout.bits)}
        return [Packed.of(f"{rows.name}_{role}", array) for role, array in arrays.items()]

    def stored_bytes(self, shape: tuple[int, ...], scheme: Scheme) -> int:
        width = prod(shape[1:])
        layout = self.layout(scheme, width)
        blocks = layout.blocks(width)
        return shape[0] * (layout.packed_bytes(width) + layout.packed_bytes(blocks) + 2 * blocks)

    def emit(self, site: Site, parts: list[ir.Value]) -> None:
        q, scale, zero = parts
        layout = self.layout(site.scheme, site.shape[1])
        gathers = site.readers()
        scale = site.widened(scale, gathers[0])
        site.register(q, zero)
        attributes = {"bits": layout.bits, "block_size": layout.block, "gather_axis": 0, "quantize_axis": 1}
        for node in gathers:
            rows = make_node("GatherBlockQuantized", [q, node.inputs[1], scale, zero], attributes, CONTRIB)
            site.order[rows] = site.order[node]
            replace_node(site.graph, node, [rows])

    def precision(self, site: Site) -> str:
        """A table has no activations."""
        return replace(site.scheme, activation_bits=16).name

    def use(self, value: ir.Value, node: ir.Node, index: int, graph: ir.Graph) -> Use:
        if index != 0 or rank_of(value) != 2 or node.attributes.get_int("axis", 0) != 0:
            return Use(reason="a Gather that is no table of rows")
        if value.shape is not None and prod(value.shape.numpy()) < SMALLEST_TABLE:
            return Use(reason=f"a table of fewer than {SMALLEST_TABLE:,} values")
        return Use(self)

    def weight_shape(self, node: ir.Node, tensor: ir.TensorProtocol, bits: int) -> tuple[int, ...]:
        shape = super().weight_shape(node, tensor, bits)
        return (*shape[:-1], shape[-1] * 8 // bits) if tensor.dtype == ir.DataType.UINT8 else shape

    def rounds_inputs(self, node: ir.Node) -> bool:
        return False


EMBEDDING = Embedding()
