"""The schedule as a table, Q-Sched's coefficients as two more columns of it, and the update formula."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qsched_runtime.errors import BundleError

COLUMNS = ("timesteps", "c_in", "a", "b", "c", "start_x0", "start_noise")
MOST_MU = 100.0


@dataclass(frozen=True)
class Coefficients:
    """Q-Sched (arXiv 2509.01624): c_x scales the latents and c_eps the network output inside each step.

    float64 [steps], or [steps, channels] for one value per latent channel. `bias`, likewise, is added to the new
    latents; None stands for zeros.
    """

    c_x: np.ndarray
    c_eps: np.ndarray
    bias: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", np.zeros(len(self.c_x)) if self.bias is None else self.bias)
        for name in ("c_x", "c_eps", "bias"):
            object.__setattr__(self, name, finite(name, getattr(self, name), (1, 2)))
        lengths = [len(getattr(self, name)) for name in ("c_x", "c_eps", "bias")]
        if len(set(lengths)) != 1:
            raise BundleError(f"c_x, c_eps and bias have {lengths} steps: they must be equal")

    @classmethod
    def identity(cls, steps: int) -> Coefficients:
        return cls(np.ones(steps), np.ones(steps))


@dataclass(frozen=True)
class ShiftLine:
    """mu = slope n + intercept for up to `latents` latents n = height x width."""

    latents: int
    slope: float
    intercept: float


@dataclass(frozen=True)
class Shift:
    """How the sigmas of a flow move with the size of the picture: exp(mu) multiplies sigma / (1 - sigma).

    `mu` is the one that the table's columns hold; `lines` give it for any size: the first whose `latents` suffice,
    else the last.
    """

    mu: float
    lines: tuple[ShiftLine, ...]

    def at(self, latents: int) -> float:
        """mu of pictures of so many latents; BundleError where the lines end in numbers that no flow has."""
        line = next((line for line in self.lines if latents <= line.latents), self.lines[-1])
        mu = line.slope * latents + line.intercept
        if not abs(mu) <= MOST_MU:
            raise BundleError(f"{latents} latents shift the schedule by {mu:g}: the bundle is not made for such a size")
        return mu


@dataclass(frozen=True)
class ScheduleTable:
    """One row per step i: the network sees `c_in x` at `timestep`; then x' = a c_x x + b c_eps e + c z.

    All columns are float64 [steps]; `init_noise_sigma` scales the initial noise. z is drawn only where c is
    not zero. A picture's latents enter at step i as start_x0 x0 + start_noise z. Probed from the stock diffusers
    scheduler, hence free of any scheduler class. A table with a `shift` is one size's, `at` gives others.
    """

    timesteps: np.ndarray
    c_in: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    start_x0: np.ndarray
    start_noise: np.ndarray
    init_noise_sigma: float
    shift: Shift | None = None

    def __post_init__(self) -> None:
        for name in COLUMNS:
            object.__setattr__(self, name, finite(name, getattr(self, name), (1,)))
        if len({len(getattr(self, name)) for name in COLUMNS}) != 1:
            raise BundleError("the columns of the schedule differ in length: make the bundle again")
        if self.shift and not ((self.start_noise > 0) & (self.start_noise <= 1)).all():
            raise BundleError("a schedule that shifts must have start_noise in 0..1: make the bundle again")

    def __len__(self) -> int:
        return len(self.timesteps)

    def at(self, latents: int) -> ScheduleTable:
        """The table for pictures of so many latents, height x width; without a shift, and at the size that the table
        was made for, the table itself."""
        return self.moved(self.shift.at(latents)) if self.shift else self

    def moved(self, mu: float) -> ScheduleTable:
        """The table at another mu; at its own the table itself."""
        if self.shift is None or mu == self.shift.mu:
            return self
        ratio = math.exp(mu - self.shift.mu)
        sigmas = np.append(self.start_noise, self.start_noise[-1] + self.b[-1])
        moved = ratio * sigmas / (1 + (ratio - 1) * sigmas)
        timesteps = self.timesteps * moved[:-1] / self.start_noise
        return replace(
            self, timesteps=timesteps, b=np.diff(moved), start_x0=1 - moved[:-1], start_noise=moved[:-1], shift=None
        )

    def folded(self, coefficients: Coefficients) -> FoldedSchedule:
        """Multiply the coefficients in; with all ones the table stays as it is, to the bit."""
        if len(coefficients.c_x) != len(self):
            raise BundleError(f"coefficients for {len(coefficients.c_x)} steps do not fit a schedule of {len(self)}")
        a, b = per_channel(self.a, coefficients.c_x), per_channel(self.b, coefficients.c_eps)
        return FoldedSchedule(self, a, b, per_channel(np.ones(len(self)), np.asarray(coefficients.bias)))


def finite(name: str, values: Any, ranks: tuple[int, ...]) -> np.ndarray:
    """float64 array of one of the `ranks`; BundleError if any value is not a finite number."""
    column = np.asarray(values, np.float64)
    if column.ndim not in ranks or not np.isfinite(column).all():
        raise BundleError(f"{name} must be finite numbers for each step, of rank {' or '.join(map(str, ranks))}")
    return column


def per_channel(base: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """[steps] x [steps] or [steps, channels] -> float32 [steps, 1 or channels, 1, 1], to scale latents [B, C, H, W]."""
    columns = factor.reshape(len(factor), -1) * base[:, None]
    return columns.astype(np.float32)[:, :, None, None]


@dataclass(frozen=True)
class FoldedSchedule:
    """A table with its coefficients multiplied in: a, b, bias float32 [steps, 1 or channels, 1, 1]."""

    table: ScheduleTable
    a: np.ndarray
    b: np.ndarray
    bias: np.ndarray

    def scale_model_input(self, x: np.ndarray, i: int) -> np.ndarray:
        return np.float32(self.table.c_in[i]) * x

    def noised(self, x0: np.ndarray, z: np.ndarray, i: int) -> np.ndarray:
        """Latents of a picture, noised to where step i begins."""
        return np.float32(self.table.start_x0[i]) * x0 + np.float32(self.table.start_noise[i]) * z

    def draws_noise(self, i: int) -> bool:
        return bool(self.table.c[i] != 0)

    def estimate(self, x: np.ndarray, z: np.ndarray | None, x_next: np.ndarray, i: int) -> np.ndarray:
        """The finished latents x0 as step i, from `x` to `x_next`, sees them; after the last step `x_next` itself.

        Before the step x = s x0 + n eps, and what it makes without fresh noise is s' x0 + m eps with m^2 = n'^2 - c^2:
        two equations that give x0 for every family. Where they are one (a step that goes nowhere), `x_next`.
        """
        table = self.table
        if i + 1 >= len(table):
            return x_next
        bare = x_next - self.bias[i] if z is None else x_next - self.bias[i] - np.float32(table.c[i]) * z
        s, n, s_next = table.start_x0[i], table.start_noise[i], table.start_x0[i + 1]
        m = np.sqrt(max(table.start_noise[i + 1] ** 2 - table.c[i] ** 2, 0.0))
        both = n * s_next - m * s
        if abs(both) < 1e-6 * max(abs(n), abs(m), 1e-6):
            return x_next
        return np.asarray(np.float32(n / both) * bare - np.float32(m / both) * x, np.float32)

    def step(self, x: np.ndarray, e: np.ndarray, z: np.ndarray | None, i: int) -> np.ndarray:
        """The latents after step i, float32 [B, C, H, W]; `z` is None where the step draws no noise."""
        bias = self.bias[i] if self.bias[i].any() else None
        return update(x, e, z, self.a[i], self.b[i], np.float32(self.table.c[i]), bias)


def update(x: Any, e: Any, z: Any, a: Any, b: Any, c: Any, bias: Any = None) -> Any:
    """x' = a x + b e + c z + bias, with the coefficients already in a and b: the one place that knows the update."""
    x_next = a * x + b * e
    x_next = x_next if z is None else x_next + c * z
    return x_next if bias is None else x_next + bias
