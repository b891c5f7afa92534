"""How an operator of onnxruntime wants a scheme's integers: bits in the file, and the operator's block size.

3 bits have no kernel and 2 bits one for linear layers alone: such values lie in the next wider container, and the
bytes that are reported are the container's. docs/quantization.md has the measurements behind each number.
"""

from __future__ import annotations

from dataclasses import dataclass

from qsched_edge.precision import Scheme
from qsched_edge.quantize.integers import QuantizedMatrix


@dataclass(frozen=True)
class BlockLayout:
    """`scheme` is what the method is asked for, `bits` what a value takes, `block` the operator's block size.

    A block of 0 means one scale for each row, without blocks; else a row's last block may reach beyond its end.
    """

    scheme: Scheme
    bits: int
    block: int

    def blocks(self, width: int) -> int:
        return -(-width // self.block) if self.block else 1

    def packed_bytes(self, values: int) -> int:
        """Of `values` integers that are packed together."""
        return -(-values * self.bits // 8)

    @property
    def shift(self) -> int:
        """What is added to symmetric integers so that zero lies where a container without zero points has it."""
        return 2 ** (self.bits - 1) - 2 ** (self.scheme.weight_bits - 1)

    def repeats(self, matrix: QuantizedMatrix) -> int:
        """How many blocks of the operator share one group's scale: more than one if a group is a whole channel."""
        width = matrix.q.shape[1]
        return self.blocks(width) if matrix.group_size == width else 1
