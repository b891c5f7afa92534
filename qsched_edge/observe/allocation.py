"""Which width each weight gets: the smallest summed error under a budget of bytes, by integer programming."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from qsched_edge.errors import MissingExtraError, QuantizeError
from qsched_edge.installed import install_command


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
        if self.bytes is not None and self.bytes <= 0:
            raise QuantizeError(f"--target-size {self.bytes}: give a number of bytes above zero, such as 500M")
        if self.ratio is not None and not 0 < self.ratio < inf:
            raise QuantizeError(f"--target-ratio {self.ratio}: give a number above zero, such as 3.6")

    def budget(self, fp16_bytes: int) -> int:
        return self.bytes if self.bytes is not None else int(fp16_bytes / self.ratio)  # type: ignore[operator]


def budget_of(sizes: Iterable[Sequence[int]], fixed: int, target: Target, fp16_bytes: int) -> int:
    """The target in bytes; raises QuantizeError if even the smallest of each weight's `sizes` together are larger."""
    sizes, budget = list(sizes), target.budget(fp16_bytes)
    smallest, largest = (fixed + sum(map(pick, sizes)) for pick in (min, max))
    if budget < smallest:
        raise QuantizeError(
            f"{budget:,} bytes ({fp16_bytes / max(budget, 1):.2f} times less than FP16) cannot be reached: the weights "
            f"take {smallest:,} bytes ({fp16_bytes / smallest:.2f} times) at least and {largest:,} at most"
        )
    return budget


def allocate(options: Mapping[str, Sequence[Option]], fixed: int, target: Target, fp16_bytes: int) -> dict[str, int]:
    """Weight name -> bits. `fixed` are the bytes of all other weights; `fp16_bytes` those of all weights in FP16.

    Minimises the sum of the errors with sum of bytes <= budget, one option for each weight. Raises QuantizeError if
    even the smallest options are larger than the budget, or an error is not finite.
    """
    budget = budget_of([[o.bytes for o in some] for some in options.values()], fixed, target, fp16_bytes)
    flat = [(name, option) for name, some in options.items() for option in some]
    for name, option in flat:
        if not isfinite(option.error):
            raise QuantizeError(f"the output is not finite with {name} in {option.bits} bits: keep it in 32 bits")
    return {name: option.bits for name, option in solve(flat, budget - fixed)} if flat else {}


def solve(flat: Sequence[tuple[str, Option]], room: int) -> list[tuple[str, Option]]:
    """One option for each name, at most `room` bytes together.

    The solver keeps its constraints to a tolerance: what exceeds the room by some bytes is asked again with less.
    """
    limit = room
    while (chosen := least_error(flat, limit)) is not None:
        over = sum(option.bytes for _, option in chosen) - room
        if over <= 0:
            return chosen
        limit -= over
    cheapest = dict(sorted(flat, key=lambda item: -item[1].bytes))  # the last one stays
    return list(cheapest.items())


def least_error(flat: Sequence[tuple[str, Option]], room: int) -> list[tuple[str, Option]] | None:
    """Exactly one option for each name, about `room` bytes at most, the least error, by HiGHS; None if none fits."""
    import numpy as np

    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array
    except ImportError as error:
        raise MissingExtraError(f"a target size needs {error.name}: {install_command('quantize')}") from error
    errors, sizes = np.array([o.error for _, o in flat]), np.array([float(o.bytes) for _, o in flat])
    rows = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in flat))}
    membership = csr_array((np.ones(len(flat)), ([rows[n] for n, _ in flat], range(len(flat)))))
    found = milp(
        errors / (errors.max() or 1.0) * 1e3,  # HiGHS' tolerances are absolute
        integrality=np.ones(len(flat)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(membership, 1, 1), LinearConstraint(sizes[None] / max(room, 1), 0, 1)],
        options={"mip_rel_gap": 1e-6},
    )
    return None if found.x is None else [item for item, taken in zip(flat, found.x > 0.5, strict=True) if taken]


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
