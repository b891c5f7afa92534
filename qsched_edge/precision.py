"""What a weight is quantized to: bits, groups, symmetry, method."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qsched_edge.errors import QuantizeError

FLOAT_BITS = (16, 32)
INTEGER_BITS = (2, 3, 4, 8)
ACTIVATION_BITS = (8, 16)
CHANNEL = 0  # the group size that means: one scale for each output channel
GROUP_SIZES = (16, 32, 64, 128, 256)
SCHEME_NAME = re.compile(r"W(?P<weight>\d+)A(?P<activation>\d+)|FP(?P<float>16|32)", re.IGNORECASE)


@dataclass(frozen=True)
class Scheme:
    """`weight_bits` 2, 3, 4 or 8 are integers in groups of at most `group_size` inputs, 16 and 32 are floats.

    `group_size` 0 gives one scale to each output channel. `activation_bits` 8 rounds the inputs of linear layers and
    convolutions to 8 bits at run time; 16 leaves them as they are.
    """

    weight_bits: int = 4
    group_size: int = 64
    symmetric: bool = False
    method: str = "rtn"
    activation_bits: int = 16

    def __post_init__(self) -> None:
        if self.weight_bits not in INTEGER_BITS + FLOAT_BITS:
            raise QuantizeError(f"weight_bits {self.weight_bits}: use one of {(*INTEGER_BITS, *FLOAT_BITS)}")
        if self.group_size not in (CHANNEL, *GROUP_SIZES):
            raise QuantizeError(
                f"group_size {self.group_size}: use one of {GROUP_SIZES}, or {CHANNEL} for one scale per channel"
            )
        if self.activation_bits not in ACTIVATION_BITS:
            raise QuantizeError(f"activation_bits {self.activation_bits}: use one of {ACTIVATION_BITS}")

    @classmethod
    def parse(cls, name: str, group_size: int = 64, symmetric: bool = False, method: str = "rtn") -> Scheme:
        """The scheme that `name` ("W4A16", "W8A8", "FP16") stands for; the inverse of `name`."""
        match = SCHEME_NAME.fullmatch(name)
        if not match:
            raise QuantizeError(f"precision {name!r} is not understood: write W4A16, W8A8, FP16 or FP32")
        bits = int(match["float"] or match["weight"])
        return cls(bits, group_size, symmetric, method, int(match["activation"] or 16))

    @property
    def name(self) -> str:
        """As the field writes it: W4A16, W4A8, FP16, FP32."""
        return f"W{self.weight_bits}A{self.activation_bits}" if self.is_integer else f"FP{self.weight_bits}"

    @property
    def is_integer(self) -> bool:
        return self.weight_bits in INTEGER_BITS

    def group_for(self, width: int) -> int:
        """The group size up to `group_size` that stores rows of `width` weights in the fewest bytes."""
        if self.group_size == CHANNEL:
            return width
        candidates = [g for g in GROUP_SIZES if g <= self.group_size]
        return min(
            reversed(candidates), key=lambda g: -(-width // g) * (g * self.weight_bits / 8 + 2 + self.weight_bits / 8)
        )
