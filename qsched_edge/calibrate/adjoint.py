"""The loss's gradient in (c_x, c_eps, bias): autograd through scorer and decoder, then the schedule's adjoint.

With u = dL/dx' the adjoint of x' = a c_x x + b c_eps e + c z + bias is

    dL/dc_x = <u, a x>    dL/dc_eps = <u, b e>    dL/dbias = <u, 1>    dL/dx = a c_x u + b c_eps J^T u

where J is the Jacobian of e in x. The network is an ONNX graph, so J is not at hand; JACOBIANS, in the registries, says
what stands for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from qsched_runtime import Coefficients, Step
from qsched_runtime.schedule import FoldedSchedule

from qsched_edge.calibrate.decoder import Decoder
from qsched_edge.calibrate.objective import Batch, Objective
from qsched_edge.errors import MetricError
from qsched_edge.jaq.loss import Loss

STEP = 0.01  # size of a difference, in units of the latents' root mean square


def extra_passes(jacobian: str, steps: int) -> int:
    """Passes for each picture beyond the trajectory's own."""
    return {"none": 0, "symmetric": steps - 1, "forward": steps * (steps - 1)}[jacobian]


def batch_gradient(
    objective: Objective, decoder: Decoder, batch: Batch, candidate: Coefficients, loss: Loss, jacobian: str
) -> tuple[float, np.ndarray]:
    """Summed loss of one batch and its gradient float64 [3, steps, channels] in (c_x, c_eps, bias)."""
    steps = list(objective.trajectory(batch, candidate))
    total, u = last_gradient(objective, decoder, batch, steps[-1].x_next, loss)
    schedule = objective.sampler.schedule(objective.steps, candidate)
    if jacobian == "forward":
        return total, forward(objective, batch, schedule, steps, u)
    product = symmetric(objective, batch, schedule) if jacobian == "symmetric" else nothing
    return total, backward(schedule, steps, u, product)


def last_gradient(
    objective: Objective, decoder: Decoder, batch: Batch, latents: np.ndarray, loss: Loss
) -> tuple[float, np.ndarray]:
    """Summed loss and its gradient float64 [B, C, h, w] in the last latents.

    Raises MetricError for a term that counts and does not depend on them as far as torch knows.
    """
    import torch

    x = torch.from_numpy(latents).to(objective.judge.device).requires_grad_()
    terms = objective.terms(x, decoder(x), batch)
    for name in loss.weights:
        if not (name in terms and terms[name].requires_grad):
            raise MetricError(f"{name}'s metric has no gradient: search without one, by free, line, grid or blackbox")
    total = loss(terms).sum()
    (u,) = torch.autograd.grad(total, x)
    return float(total.detach()), u.double().cpu().numpy()


def backward(
    schedule: FoldedSchedule, steps: list[Step], u: np.ndarray, product: Callable[[Step, np.ndarray], Any]
) -> np.ndarray:
    """The adjoint recursion; `product(step, v)` stands for J^T v at that step."""
    gradient = np.empty((3, len(steps), u.shape[1]))
    for step in reversed(steps):
        a, b = schedule.table.a[step.i], schedule.table.b[step.i]
        for row, factor in enumerate((a * step.x, b * step.e, np.ones_like(u))):
            gradient[row, step.i] = (u * factor).sum(axis=(0, 2, 3))
        if step.i:
            u = schedule.a[step.i] * u + product(step, schedule.b[step.i] * u)
    return gradient


def nothing(step: Step, v: np.ndarray) -> float:
    return 0.0


def symmetric(objective: Objective, batch: Batch, schedule: FoldedSchedule) -> Callable[[Step, np.ndarray], np.ndarray]:
    return lambda step, v: directional(objective, batch, schedule, step, v)


def directional(objective: Objective, batch: Batch, schedule: FoldedSchedule, step: Step, v: np.ndarray) -> np.ndarray:
    """J v of each picture by one forward difference of `STEP` times the latents' size."""
    size = lambda y: np.sqrt((y.astype(np.float64) ** 2).mean(axis=(1, 2, 3), keepdims=True))  # noqa: E731
    length = size(v)
    h = STEP * size(step.x) / np.where(length > 0, length, 1)
    moved = schedule.scale_model_input((step.x + h * v).astype(np.float32), step.i)
    e = objective.sampler.fresh_output(moved, schedule.table.timesteps[step.i], batch.conditioning)
    return np.where(length > 0, (e.astype(np.float64) - step.e) / h, 0.0)


def forward(
    objective: Objective, batch: Batch, schedule: FoldedSchedule, steps: list[Step], u: np.ndarray
) -> np.ndarray:
    """Each scalar coefficient's tangent carried through the later steps, then its product with u.

    The bias, whose gradient no scalar search asks for, keeps the surrogate's. Spread evenly over the channels, so that
    a sum over them is the scalar's derivative.
    """
    gradient = backward(schedule, steps, u, nothing)
    for first in steps:
        columns = (schedule.table.a[first.i] * first.x, schedule.table.b[first.i] * first.e)
        for row, tangent in enumerate(columns):
            t = tangent.astype(np.float64)
            for step in steps[first.i + 1 :]:
                product = directional(objective, batch, schedule, step, t)
                t = schedule.a[step.i] * t + schedule.b[step.i] * product
            gradient[row, first.i] = (u * t).sum() / u.shape[1]
    return gradient
