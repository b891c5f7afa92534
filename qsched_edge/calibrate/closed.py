"""Closed-form coefficients from paired passes of the quantized (q) and the full-precision (e) network.

Each style is one candidate and the fitting prompts' loss chooses. With q = (1 + k) e + mu + residual, residual variance
V, v = V / (1 + k)^2:

- ptqd (arXiv 2305.10657): e is read back as (q - mu) / (1 + k). The paper's code subtracts q - e, as is done here; a
  correction of the other sign doubles the error.
- dns (ICML 2026, yang26aa): ptqd, and a step that aims below its noise level by what the residual adds to it.
- q-drift (arXiv 2603.18095): the same aim to first order, for each channel, c_eps = 1 + V |h| / (2 s) for a step of
  size h from noise level s. It is above one whichever way h is signed: added noise asks for more denoising.
- affine, affine-channel: the least-squares fit e = alpha q + beta x + gamma, for all channels together or for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from qsched_runtime import Coefficients
from qsched_runtime.schedule import ScheduleTable

from qsched_edge.calibrate.pairs import MOMENTS
from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.space import clipped


@dataclass(frozen=True)
class Paired:
    """Centred moments of x, e and q float64 [steps, channels], and the table they belong to. `prediction` is what
    the network predicts: "epsilon", "flow" or another name, for which there is no formula in noise levels."""

    table: ScheduleTable
    prediction: str
    mean: dict[str, np.ndarray]
    covariance: dict[str, np.ndarray]

    @classmethod
    def of(cls, moments: np.ndarray, table: ScheduleTable, prediction: str) -> Paired:
        m = dict(zip(MOMENTS, moments, strict=True))
        mean = {n: m[n] / m["count"] for n in "xeq"}
        covariance = {n: m[n] / m["count"] - mean[n[0]] * mean[n[1]] for n in ("xx", "ee", "qq", "xe", "xq", "eq")}
        return cls(table, prediction, mean, covariance)

    @property
    def slope(self) -> np.ndarray:
        """1 + k, [steps, 1]: q on e over all channels."""
        return self.covariance["eq"].sum(1, keepdims=True) / self.covariance["ee"].sum(1, keepdims=True)

    @property
    def offset(self) -> np.ndarray:
        """mu, [steps, channels]."""
        return self.mean["q"] - self.slope * self.mean["e"]

    @property
    def residual(self) -> np.ndarray:
        """v = V / (1 + k)^2, [steps]."""
        c = self.covariance
        variance = (c["qq"] - 2 * self.slope * c["eq"] + self.slope**2 * c["ee"]) / self.slope**2
        return variance.mean(axis=1)

    @property
    def b(self) -> np.ndarray:
        return self.table.b[:, None]

    def levels(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(s, target): the noise level in units of the clean picture at each step's begin, and the one that the
        step's deterministic part aims at; sigma itself for flows. None where there is no formula."""
        t = self.table
        if self.prediction == "flow":
            return t.start_noise, t.start_noise + t.b
        if self.prediction != "epsilon":
            return None
        s, scale = t.start_noise / t.start_x0, t.a * t.start_x0
        target = s + t.b / scale
        return s, np.where(np.abs(target) < 1e-3 * s, 0.0, target)


def ptqd(p: Paired) -> Coefficients:
    return Coefficients(np.ones(len(p.table)), 1 / p.slope[:, 0], -p.b * p.offset / p.slope)


def dns(p: Paired) -> Coefficients | None:
    levels = p.levels()
    if levels is None:
        return None
    shift = flow_shift if p.prediction == "flow" else epsilon_shift
    c_x, gain = np.array([shift(*row) for row in zip(*levels, p.residual, strict=True)]).T
    c_eps = gain / p.slope[:, 0]
    return Coefficients(c_x, c_eps, -p.b * p.offset * c_eps[:, None])


def epsilon_shift(s: float, target: float, v: float) -> tuple[float, float]:
    """(c_x, c_eps (1 + k)) that land at `target` when the step adds (s' - s)^2 v: s'^2 + v (s' - s)^2 = target^2.

    A step that lands at zero noise, or one that no aim brings there, stays as it is.
    """
    root = v**2 * s**2 - (1 + v) * (v * s**2 - target**2)
    if target <= 0 or root < 0:
        return 1.0, 1.0
    aim = (v * s + np.sqrt(root)) / (1 + v)
    return 1.0, (aim - s) / (target - s)


def flow_shift(sigma: float, target: float, v: float) -> tuple[float, float]:
    """The same for flow matching: with r = sqrt(s'^2 + (s' - sigma)^2 v) and C = 1 - s' + r, r / C = target."""
    from scipy.optimize import brentq

    def noise(aim: float) -> float:
        return float(np.sqrt(aim**2 + (aim - sigma) ** 2 * v))

    def miss(aim: float) -> float:
        return noise(aim) / (1 - aim + noise(aim)) - target

    if target <= 1e-6 or miss(0.0) > 0 or miss(target) < 0:
        return 1.0, 1.0
    aim = brentq(miss, 0.0, target, xtol=1e-12)
    scale = 1 - aim + noise(aim)
    return 1 / scale, (aim - sigma) / (scale * (target - sigma))


def q_drift(p: Paired) -> Coefficients | None:
    levels = p.levels()
    if levels is None:
        return None
    s, target = levels
    c = p.covariance
    variance = c["qq"] - 2 * c["eq"] + c["ee"]
    return Coefficients(np.ones(len(p.table)), 1 + variance * (np.abs(target - s) / (2 * s))[:, None])


def affine(p: Paired) -> Coefficients:
    return affine_of(p, {n: v.sum(axis=1, keepdims=True) for n, v in p.covariance.items()})


def affine_channel(p: Paired) -> Coefficients:
    return affine_of(p, p.covariance)


def affine_of(p: Paired, c: dict[str, np.ndarray]) -> Coefficients:
    """The normal equations of e = alpha q + beta x + gamma; a step that keeps nothing of x (a = 0) keeps c_x = 1."""
    normal = np.stack([np.stack([c["qq"], c["xq"]], -1), np.stack([c["xq"], c["xx"]], -1)], -2)
    alpha, beta = np.moveaxis(np.linalg.solve(normal, np.stack([c["eq"], c["xe"]], -1)[..., None])[..., 0], -1, 0)
    a = p.table.a[:, None]
    c_x = 1 + np.divide(p.b * beta, a, out=np.zeros_like(beta), where=a != 0)
    gamma = p.mean["e"] - alpha * p.mean["q"] - beta * p.mean["x"]
    return Coefficients(c_x, alpha, p.b * gamma)


STYLES: dict[str, Callable[[Paired], Coefficients | None]] = {
    "ptqd": ptqd,
    "dns": dns,
    "q-drift": q_drift,
    "affine": affine,
    "affine-channel": affine_channel,
}


def search(problem: Problem) -> None:
    """Score one candidate of each style, within the box; the notes say each style's fit (None: broken pictures)."""
    paired = Paired.of(problem.moments(), problem.table, problem.prediction)
    found = {name: style(paired) for name, style in STYLES.items()}
    fits = {n: problem.score(clipped(c)) for n, c in found.items() if c}
    problem.notes["styles"] = {n: f if np.isfinite(f) else None for n, f in fits.items()}
