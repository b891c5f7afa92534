"""Convolutions: a DequantizeLinear before Conv or ConvTranspose."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from qsched_edge.errors import QuantizeError
from qsched_edge.precision import CHANNEL, Scheme
from qsched_edge.quantize.emit import Site, make_node
from qsched_edge.quantize.encode import WeightRows, laid_out
from qsched_edge.quantize.integers import pack
from qsched_edge.quantize.layers.kind import IntegerOperand, LayerKind, Window
from qsched_edge.quantize.layout import BlockLayout
from qsched_edge.quantize.store import Packed

BLOCKED_OPSET = 21  # DequantizeLinear in blocks and with 4-bit types
PER_AXIS_OPSET, PER_AXIS_FLOAT16_OPSET = 13, 19  # with one scale for each channel; with float16 scales


class Conv(LayerKind):
    """A weight [O, I, kh, kw], or of fewer or more axes."""

    name, noun, multiplies = "conv", "a convolution", True
    operators: ClassVar = {"Conv": (1,), "ConvTranspose": (1,)}
    integer_operators: ClassVar = {"QLinearConv": IntegerOperand(3, (4, 5)), "ConvInteger": IntegerOperand(1, (3,))}

    def layout(self, scheme: Scheme, width: int) -> BlockLayout:
        """DequantizeLinear has types of 4 and 8 bits up to opset 24."""
        bits = 8 if scheme.weight_bits == 8 else 4
        return BlockLayout(scheme, bits, 0 if scheme.group_size == CHANNEL else scheme.group_for(width))

    def encode(self, rows: WeightRows, scheme: Scheme) -> list[Packed]:
        """In blocks, integers [O, I kh kw], scales and zero points [O, blocks] and Reshape's shape; by channel,
        integers of the weight's own shape, scales and zero points [O]."""
        layout = self.layout(scheme, rows.width)
        found, dtype = laid_out(rows, layout, padded=False), f"UINT{layout.bits}"
        shape, grid = ((rows.shape[0], rows.width), found.scale.shape) if layout.block else (rows.shape, rows.shape[:1])
        stored = [
            Packed(f"{rows.name}_q", pack(found.q.reshape(-1), layout.bits), dtype, shape),
            Packed.of(f"{rows.name}_scale", found.scale.reshape(grid)),
            Packed(f"{rows.name}_zero", pack(found.zero.reshape(-1), layout.bits), dtype, grid),
        ]
        return [*stored, Packed.of(f"{rows.name}_shape", np.array(rows.shape, np.int64))] if layout.block else stored

    def stored_bytes(self, shape: tuple[int, ...], scheme: Scheme) -> int:
        """Packed as a whole, and the shape beside."""
        rows, width = shape[0], prod(shape[1:])
        layout = self.layout(scheme, width)
        blocks = rows * layout.blocks(width)
        wanted = 8 * len(shape) if layout.block else 0
        return layout.packed_bytes(rows * width) + layout.packed_bytes(blocks) + 2 * blocks + wanted

    def emit(self, site: Site, parts: list[ir.Value]) -> None:
        """DequantizeLinear, in blocks of [O, I kh kw] with a Reshape or by channel."""
        q, scale, zero, *shape = parts
        convs = site.readers()
        scale = site.widened(scale, convs[0])
        site.register(q, zero, *shape)
        block = self.layout(site.scheme, prod(site.shape[1:])).block
        attributes = {"axis": 1, "block_size": block} if block else {"axis": 0}
        nodes = [make_node("DequantizeLinear", [q, scale, zero], attributes)]
        if shape:
            nodes.append(make_node("Reshape", [nodes[0].outputs[0], *shape]))
        site.graph.insert_before(convs[0], nodes)
        for conv in convs:
            conv.replace_input_with(1, nodes[-1].outputs[0])
            if can_round_inputs(site):
                site.graph.insert_before(conv, rounded := rounding(conv.inputs[0]))
                conv.replace_input_with(0, rounded[-1].outputs[0])

    def precision(self, site: Site) -> str:
        return site.scheme.name if can_round_inputs(site) else replace(site.scheme, activation_bits=16).name

    def opset(self, scheme: Scheme, dtype: ir.DataType | None) -> int:
        if scheme.group_size != CHANNEL or scheme.weight_bits != 8:
            return BLOCKED_OPSET
        return PER_AXIS_FLOAT16_OPSET if dtype == ir.DataType.FLOAT16 else PER_AXIS_OPSET

    def window(self, weight: ir.Value) -> Window:
        """Raises QuantizeError unless the weight is [O, I, kh, kw] and the padding explicit."""
        (node, _), *_ = weight.uses()
        shape = weight.shape.numpy() if weight.shape is not None else ()
        attributes = node.attributes
        padding = attributes["auto_pad"].as_string() if "auto_pad" in attributes else "NOTSET"
        if len(shape) != 4 or padding != "NOTSET":
            raise QuantizeError(f"{weight.name}: a convolution of weights {shape} padded {padding} cannot be observed")
        strides, dilations = (tuple(attributes.get_ints(name, (1, 1))) for name in ("strides", "dilations"))
        pads = tuple(attributes.get_ints("pads", (0,) * 4))
        return Window(tuple(shape[2:]), strides, pads, dilations, attributes.get_int("group", 1))  # type: ignore[arg-type]


CONV = Conv()


def can_round_inputs(site: Site) -> bool:
    """DynamicQuantizeLinear takes float32 only: convolutions of a float16 graph keep their inputs."""
    return site.scheme.activation_bits == 8 and site.dtype == ir.DataType.FLOAT


def rounding(x: ir.Value | None) -> list[ir.Node]:
    """x rounded to uint8 with one scale and zero point for the tensor, found anew in every run."""
    quantize = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
    return [quantize, make_node("DequantizeLinear", list(quantize.outputs))]
