"""Our search: ascend JAQ's gradient, carried through the torch decoder and the linear schedule to c_x, c_eps.

The network outputs are those of the quantized ONNX graph and count as constants: its own Jacobian is left out, so the
gradient is a surrogate (exact for the last step), and every iterate is judged by its true score.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qsched_runtime import Coefficients, ScheduleTable, Step
from qsched_runtime.manifest import LatentSpec
from qsched_runtime.schedule import update

from qsched_edge.calibrate.search import Problem, Proposal, key_of

if TYPE_CHECKING:
    import torch

LOW, HIGH = 0.8, 1.2
RATE, MOMENTUM, SCALE = 0.01, 0.9, 0.99  # Adam's, on values near one


def search(problem: Problem) -> Proposal:
    """Adam on all 2 x steps coefficients for `iterations`; the iterate with the best true fit score is proposed."""
    decoder = Decoder(problem.vae, problem.objective.sampler.manifest.latents)
    theta = np.ones((2, problem.steps))
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    iterates: list[tuple[float, Coefficients]] = []
    with problem.progress("gradient", problem.iterations) as advance:
        for i in range(1, problem.iterations + 1):
            candidate = Coefficients(*theta)
            score, gradient = recalled_gradient(problem, decoder, candidate)
            iterates.append((score, candidate))
            first = MOMENTUM * first + (1 - MOMENTUM) * gradient
            second = SCALE * second + (1 - SCALE) * gradient**2
            rate = RATE * np.sqrt(1 - SCALE**i) / (1 - MOMENTUM**i)
            theta = np.clip(theta + rate * first / (np.sqrt(second) + 1e-12), LOW, HIGH)
            advance(1)
    _, best = max(iterates, key=lambda pair: pair[0])
    return Proposal("gradient", best, problem.fit_jaq(best), problem.passes_of(problem.iterations + 1))


def recalled_gradient(problem: Problem, decoder: Decoder, candidate: Coefficients) -> tuple[float, np.ndarray]:
    """(mean JAQ, its gradient [2, steps]) over the fitting prompts, from the journal where it has them."""

    def compute() -> list[Any]:
        total, gradient, count = 0.0, np.zeros((2, problem.steps)), 0
        for batch in problem.objective.batches:
            steps = list(problem.objective.trajectory(batch, candidate))
            jaq, part = batch_gradient(problem, decoder, steps, batch.prompts, candidate)
            total, gradient, count = total + jaq, gradient + part, count + len(batch.prompts)
        return [total / count, (gradient / count).tolist()]

    score, gradient = problem.journal.recall(["gradient", key_of(candidate)], compute)
    return score, np.array(gradient)


def batch_gradient(
    problem: Problem, decoder: Decoder, steps: list[Step], prompts: tuple[str, ...], candidate: Coefficients
) -> tuple[float, np.ndarray]:
    """Summed JAQ of one batch and its gradient [2, steps] in (c_x, c_eps)."""
    import torch

    theta = torch.tensor(np.stack([candidate.c_x, candidate.c_eps]), dtype=torch.float32, requires_grad=True)
    table = problem.objective.sampler.manifest.schedules[problem.steps]
    latents = replay(table, steps, theta)
    jaq = problem.jaq(*problem.objective.judge.terms(decoder(latents), prompts)).sum()
    (gradient,) = torch.autograd.grad(jaq, theta)
    return float(jaq.detach()), gradient.double().numpy()


def replay(table: ScheduleTable, steps: list[Step], theta: torch.Tensor) -> torch.Tensor:
    """The sampler's last latents as a differentiable function of theta = (c_x, c_eps), network outputs held fixed."""
    import torch

    x = torch.from_numpy(steps[0].x)
    for step in steps:
        i = step.i
        e, z = torch.from_numpy(step.e), None if step.z is None else torch.from_numpy(step.z)
        x = update(x, e, z, table.a[i] * theta[0, i], table.b[i] * theta[1, i], table.c[i])
    return x


class Decoder:
    """The model's own decoder in torch, full precision: latents [B, C, h, w] -> pictures in 0..1."""

    def __init__(self, folder: Path, latents: LatentSpec) -> None:
        from qsched_edge import torchvision_schema

        torchvision_schema.declare()
        import torch
        from diffusers import AutoencoderKL

        self.vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
        self.vae.eval().requires_grad_(False)
        self.latents = latents

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        z = x / self.latents.scaling_factor + self.latents.shift_factor
        return (self.vae.decode(z, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
