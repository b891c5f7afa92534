"""Closed-form coefficients from paired passes of the quantized (q) and the full-precision (e) network.

Each style is one candidate and the fitting prompts' loss chooses. With q = (1 + k) e + mu + residual, residual variance
V, v = V / (1 + k)^2:

- ptqd (arXiv 2305.10657): e is read back as (q - mu) / (1 + k). The paper's code subtracts q - e, as is done here; a
  correction of the other sign doubles the error.
- dns (ICML 2026, yang26aa): ptqd, and a step whose signal and noise, the residual's included, are those that full
  precision would reach; here for whatever the network predicts (`Prediction`).
- q-drift (arXiv 2603.18095): the same aim to first order, for each channel, on c_eps alone. It is above one whichever
  way a step is signed: added noise asks for more denoising.
- affine, affine-channel: the least-squares fit e = alpha q + beta x + gamma, for all channels together or for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from qsched_runtime import Coefficients
from qsched_runtime.schedule import ScheduleTable

from qsched_edge.calibrate.pairs import MOMENTS
from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.searches.space import clipped
from qsched_edge.errors import RequestError, unknown_name


class Prediction(NamedTuple):
    """x = alpha x0 + sigma eps at the begin of each step, and e = of_signal x0 + of_noise eps, float64 [steps]."""

    alpha: np.ndarray
    sigma: np.ndarray
    of_noise: np.ndarray
    of_signal: np.ndarray

    @classmethod
    def of(cls, kind: str, table: ScheduleTable) -> Prediction:
        """`kind` is "flow" or one of diffusers' prediction types; raises RequestError for others."""
        alpha, sigma = table.start_x0, table.start_noise
        one, size = np.ones_like(alpha), np.hypot(alpha, sigma)
        known = {
            "epsilon": (one, 0 * one),
            "sample": (0 * one, one),
            "v_prediction": (alpha / size, -sigma / size),
            "flow": (one, -one),
        }
        if kind not in known:
            raise RequestError(unknown_name("prediction type", kind, known))
        return cls(alpha, sigma, *known[kind])


@dataclass(frozen=True)
class Paired:
    """Centred moments of x, e and q float64 [steps, channels], the table they belong to and what e predicts."""

    table: ScheduleTable
    prediction: Prediction
    mean: dict[str, np.ndarray]
    covariance: dict[str, np.ndarray]

    @classmethod
    def of(cls, moments: np.ndarray, table: ScheduleTable, prediction: Prediction) -> Paired:
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


def ptqd(p: Paired) -> Coefficients:
    return Coefficients(np.ones(len(p.table)), 1 / p.slope[:, 0], -p.b * p.offset / p.slope)


def dns(p: Paired) -> Coefficients:
    """c_x, c_eps of each step such that a c_x x + b c_eps e has full precision's signal A and, with the residual's
    variance added, its noise S. A step that reaches no noise, or one that cannot, stays as it is."""
    rows = zip(p.table.a, p.table.b, *p.prediction, p.residual, strict=True)
    c_x, gain = np.array([landing(*row) for row in rows]).T
    c_eps = gain / p.slope[:, 0]
    return Coefficients(c_x, c_eps, -p.b * p.offset * c_eps[:, None])


def landing(
    a: float, b: float, alpha: float, sigma: float, of_noise: float, of_signal: float, v: float
) -> tuple[float, float]:
    """(c_x, c_eps (1 + k)) of one step, from x = alpha x0 + sigma eps and e = of_signal x0 + of_noise eps:

        a alpha c_x + b of_signal c = A        (a sigma c_x + b of_noise c)^2 + b^2 v c^2 = S^2

    The first gives c_x, so that the noise is n0 + n1 c and the second is a quadratic in c.
    """
    signal, noise = a * alpha + b * of_signal, a * sigma + b * of_noise
    if a * alpha < 1e-6 or noise < 1e-2 * a * sigma:
        return 1.0, 1.0
    n0, n1 = sigma * signal / alpha, b * (of_noise - of_signal * sigma / alpha)
    square, linear, rest = n1**2 + b**2 * v, 2 * n0 * n1, n0**2 - noise**2
    if linear**2 < 4 * square * rest:
        return 1.0, 1.0
    root = np.sqrt(linear**2 - 4 * square * rest)
    c = min(((-linear + sign * root) / (2 * square) for sign in (1, -1)), key=lambda c: abs(c - 1))
    return (signal - b * of_signal * c) / (a * alpha), c


def q_drift(p: Paired) -> Coefficients | None:
    """c_eps = 1 + b^2 V / (2 |b of_noise| a sigma): h of the paper is b of_noise, its noise level a sigma."""
    t, e = p.table, p.prediction
    if not e.of_noise.all() or not t.a.all():
        return None
    c = p.covariance
    variance = c["qq"] - 2 * c["eq"] + c["ee"]
    gain = np.abs(t.b / e.of_noise) / (2 * np.abs(t.a) * e.sigma)
    return Coefficients(np.ones(len(t)), 1 + variance * gain[:, None])


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
    paired = Paired.of(problem.moments(), problem.table, Prediction.of(problem.prediction, problem.table))
    found = {name: style(paired) for name, style in STYLES.items()}
    fits = {n: problem.score(clipped(c)) for n, c in found.items() if c}
    problem.spending.notes["styles"] = {n: f if np.isfinite(f) else None for n, f in fits.items()}
