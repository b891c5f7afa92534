"""Which width each weight gets: the smallest summed error under a budget of bytes, by integer programming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qsched_edge.errors import MissingExtraError, QuantizeError


@dataclass(frozen=True)
class Option:
    """One weight in `bits`: the bytes it is stored in and what it adds to the squared error of the output."""

    bits: int
    bytes: int
    error: float


@dataclass(frozen=True)
class Target:
    """What the backbone's weights may take, values, scales and zero points together: `bytes`, or FP16 over `ratio`."""

    bytes: int | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        if (self.bytes is None) == (self.ratio is None):
            raise QuantizeError("--target-size and --target-ratio exclude each other: give one")
        if self.ratio is not None and not self.ratio > 0:
            raise QuantizeError(f"--target-ratio {self.ratio}: give a number above zero, such as 3.6")

    def budget(self, fp16_bytes: int) -> int:
        return self.bytes if self.bytes is not None else int(fp16_bytes / self.ratio)  # type: ignore[operator]


def allocate(options: Mapping[str, Sequence[Option]], fixed: int, target: Target, fp16_bytes: int) -> dict[str, int]:
    """Weight name -> bits. `fixed` are the bytes of all other weights; `fp16_bytes` those of all weights in FP16.

    Minimises the sum of the errors with sum of bytes <= budget, one option for each weight. Raises QuantizeError if
    even the smallest options are larger than the budget.
    """
    budget = target.budget(fp16_bytes)
    smallest, largest = (fixed + sum(pick(o.bytes for o in some) for some in options.values()) for pick in (min, max))
    if budget < smallest:
        raise QuantizeError(
            f"{budget:,} bytes ({fp16_bytes / max(budget, 1):.2f} times less than FP16) cannot be reached: the weights "
            f"take {smallest:,} bytes ({fp16_bytes / smallest:.2f} times) at least and {largest:,} at most"
        )
    flat = [(name, option) for name, some in options.items() for option in some]
    chosen = solve(flat, budget - fixed)
    return {name: option.bits for (name, option), taken in zip(flat, chosen, strict=True) if taken}


def solve(flat: Sequence[tuple[str, Option]], room: int) -> np.ndarray:
    """bool [options]: exactly one for each name, at most `room` bytes, the least error; HiGHS by scipy."""
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array
    except ImportError as error:
        raise MissingExtraError(f'a target size needs {error.name}: pip install "qsched-edge[quantize]"') from error
    errors, sizes = np.array([o.error for _, o in flat]), np.array([float(o.bytes) for _, o in flat])
    rows = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in flat))}
    membership = csr_array((np.ones(len(flat)), ([rows[n] for n, _ in flat], range(len(flat)))))
    found = milp(
        errors / (errors.max() or 1.0) * 1e3,  # HiGHS' tolerances are absolute
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(membership, 1, 1), LinearConstraint(sizes[None] / room, 0, 1)],
        options={"mip_rel_gap": 1e-6},
    )
    if found.x is None:
        raise QuantizeError(f"no precision map was found: {found.message}")
    return found.x > 0.5


def summary(
    component: str, options: Mapping[str, Sequence[Option]], bits: Mapping[str, int], fixed: int, fp16_bytes: int
) -> list[str]:
    """What a choice amounts to, in lines for the head of its file."""
    taken = [option for name, some in options.items() for option in some if option.bits == bits[name]]
    total, counts = fixed + sum(o.bytes for o in taken), Counter(o.bits for o in taken)
    return [
        f"{component}: {total:,} bytes of weights, {fp16_bytes / total:.3f} times less than in FP16",
        "weights by width: " + ", ".join(f"{n} of {b} bits" for b, n in sorted(counts.items())),
        f"summed relative squared error of the output: {sum(o.error for o in taken):.3e}",
    ]


def as_toml(layers: Mapping[str, int], comments: Iterable[str] = ()) -> str:
    """A precision map "component.weight" -> bits, as `--precision-map` and a recipe's `layers` read it."""
    lines = [
        *(f"# {line}" for line in comments),
        "[layers]",
        *(f'"{name}" = {b}' for name, b in sorted(layers.items())),
    ]
    return "\n".join(lines) + "\n"
