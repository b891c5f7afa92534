"""How the operators of onnxruntime want a scheme's integers: bits in the file, and the operator's block size.

3 bits have no kernel and 2 bits one for linear layers alone: such values lie in the next wider container, and the
bytes that are reported are the container's. docs/quantization.md has the measurements behind each number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from qsched_edge.precision import CHANNEL, GROUP_SIZES, Scheme
from qsched_edge.quantize.integers import QuantizedMatrix


@dataclass(frozen=True)
class Layout:
    """`scheme` is what the method is asked for, `bits` what a value takes, `block` the operator's block size.

    A block of 0 means one scale for each row, without blocks; else a row's last block may reach beyond its end.
    """

    scheme: Scheme
    bits: int
    block: int

    def blocks(self, width: int) -> int:
        return -(-width // self.block) if self.block else 1

    @property
    def shift(self) -> int:
        """What is added to symmetric integers so that zero lies where a container without zero points has it."""
        return 2 ** (self.bits - 1) - 2 ** (self.scheme.weight_bits - 1)

    def repeats(self, matrix: QuantizedMatrix) -> int:
        """How many blocks of the operator share one group's scale: more than one if a group is a whole channel."""
        width = matrix.q.shape[1]
        return self.blocks(width) if matrix.group_size == width else 1


def linear_layout(scheme: Scheme, width: int) -> Layout:
    """MatMulNBits takes 2, 4 and 8 bits and blocks of 16 to 256."""
    bits = {3: 4}.get(scheme.weight_bits, scheme.weight_bits)
    blocked = scheme if scheme.group_size != CHANNEL else replace(scheme, group_size=GROUP_SIZES[-1])
    return Layout(scheme, bits, blocked.group_for(width))


def conv_layout(scheme: Scheme, width: int) -> Layout:
    """DequantizeLinear has types of 4 and 8 bits up to opset 24."""
    bits = 8 if scheme.weight_bits == 8 else 4
    return Layout(scheme, bits, 0 if scheme.group_size == CHANNEL else scheme.group_for(width))


def embedding_layout(scheme: Scheme, width: int) -> Layout:
    """GatherBlockQuantized takes 4 and 8 bits.

    Its rows are whole bytes, and up to onnxruntime 1.24 it misreads 4-bit zero points where a row has an odd number
    of blocks: a smaller group or 8 bits avoid both.
    """
    if scheme.weight_bits < 8 and width % 2 == 0:
        for largest in reversed([g for g in GROUP_SIZES if g <= (scheme.group_size or GROUP_SIZES[-1])]):
            fitting = replace(scheme, group_size=largest)
            block = fitting.group_for(width)
            if -(-width // block) % 2 == 0:
                return Layout(scheme if scheme.group_size == CHANNEL else fitting, 4, block)
    return Layout(scheme, 8, replace(scheme, group_size=scheme.group_size or GROUP_SIZES[-1]).group_for(width))


LAYOUTS = {"linear": linear_layout, "conv": conv_layout, "embedding": embedding_layout}
