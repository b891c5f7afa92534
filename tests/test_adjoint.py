"""The gradient in the coefficients against torch's autograd through a network whose Jacobian is known."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from qsched_runtime import Coefficients, ScheduleTable, Step

from qsched_edge.calibrate.adjoint import batch_gradient, extra_passes
from qsched_edge.errors import MetricError
from qsched_edge.jaq.loss import Loss, weights_of

JAQ = weights_of("jaq", 2.0)
STEPS, SHAPE = 3, (2, 4, 3, 3)
RNG = np.random.default_rng(0)
TABLE = ScheduleTable(
    np.arange(3.0), np.array([0.5, 0.8, 1.0]), np.array([0.4, 0.7, 0.9]), np.array([-0.3, -0.5, -0.6]),
    np.array([0.3, 0.2, 0.0]), np.ones(3), np.ones(3), 1.0,
)  # fmt: skip
LOSS = Loss({"text_image": 1.0}, {"text_image": 0.0}, {"text_image": 1.0})
CANDIDATE = Coefficients(np.array([1.02, 0.98, 1.01]), np.array([0.97, 1.03, 1.0]))
MIX = RNG.normal(size=(4, 4)) / 2
SYMMETRIC = (MIX + MIX.T) / 2


class Network:
    """e = M x + curve tanh(x) over channels, in numpy for the sampler and in torch for the truth; counts its passes."""

    def __init__(self, mix: np.ndarray, curve: float) -> None:
        self.mix, self.curve, self.passes = mix, curve, 0

    def torch(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("dc,bchw->bdhw", torch.from_numpy(self.mix), x) + self.curve * torch.tanh(x)

    def fresh_output(self, x: np.ndarray, timestep: float, conditioning: object) -> np.ndarray:
        self.passes += len(x)
        return self.torch(torch.from_numpy(x).double()).numpy()

    def schedule(self, steps: int, candidate: Coefficients):  # type: ignore[no-untyped-def]
        return TABLE.folded(candidate)


def objective_of(network: Network) -> SimpleNamespace:
    noise = [np.random.default_rng(i).normal(size=SHAPE).astype(np.float32) for i in range(STEPS + 1)]

    def trajectory(batch: object, candidate: Coefficients) -> Iterator[Step]:
        schedule, x = TABLE.folded(candidate), noise[0]
        for i in range(STEPS):
            e = network.fresh_output(schedule.scale_model_input(x, i), 0.0, None).astype(np.float32)
            z = noise[i + 1] if schedule.draws_noise(i) else None
            x_next = schedule.step(x, e, z, i)
            yield Step(i, x, e, z, x_next)
            x = x_next

    return SimpleNamespace(
        sampler=network, steps=STEPS, trajectory=trajectory, judge=SimpleNamespace(device="cpu"), noise=noise,
        terms=lambda x, images, batch: {"text_image": (images**2).mean(dim=(1, 2, 3))},
    )  # fmt: skip


def truth(network: Network, objective: SimpleNamespace, constant: bool) -> np.ndarray:
    """Autograd through everything, in float64; `constant`: the network's outputs count as constants."""
    theta = torch.tensor(np.stack([CANDIDATE.c_x, CANDIDATE.c_eps]), requires_grad=True)
    noise = [torch.from_numpy(z).double() for z in objective.noise]
    x = noise[0]
    for i in range(STEPS):
        e = network.torch(TABLE.c_in[i] * x)
        e = e.detach() if constant else e
        x = TABLE.a[i] * theta[0, i] * x + TABLE.b[i] * theta[1, i] * e + TABLE.c[i] * noise[i + 1]
    (gradient,) = torch.autograd.grad((torch.sin(x) ** 2).mean(dim=(1, 2, 3)).sum(), theta)
    return gradient.numpy()


@pytest.mark.parametrize(
    ("jacobian", "mix", "curve", "constant"),
    [("none", MIX, 0.5, True), ("symmetric", SYMMETRIC, 0.5, False), ("forward", MIX, 0.5, False)],
)
def test_each_jacobian_is_exact_where_it_says_so(jacobian: str, mix: np.ndarray, curve: float, constant: bool) -> None:
    network = Network(mix, curve)
    objective = objective_of(network)
    batch = SimpleNamespace(conditioning=None)
    _, found = batch_gradient(objective, torch.sin, batch, CANDIDATE, LOSS, jacobian)  # type: ignore[arg-type]
    expected = truth(network, objective, constant)
    np.testing.assert_allclose(found[:2].sum(axis=2), expected, rtol=0.02, atol=0.002 * np.abs(expected).max())
    assert network.passes == len(objective.noise[0]) * (STEPS + extra_passes(jacobian, STEPS))


def test_without_the_jacobian_the_earlier_steps_are_a_surrogate_and_the_last_is_exact() -> None:
    network = Network(MIX, 0.5)
    objective = objective_of(network)
    _, found = batch_gradient(objective, torch.sin, SimpleNamespace(conditioning=None), CANDIDATE, LOSS, "none")  # type: ignore[arg-type]
    exact = truth(network, objective, constant=False)
    np.testing.assert_allclose(found[:2].sum(axis=2)[:, -1], exact[:, -1], rtol=1e-4)
    assert not np.allclose(found[:2].sum(axis=2)[:, 0], exact[:, 0], rtol=0.05)


def test_bias_gradient_is_a_channels_finite_difference() -> None:
    network = Network(np.zeros((4, 4)), 0.0)  # e = 0, so that the surrogate is exact
    objective = objective_of(network)
    batch = SimpleNamespace(conditioning=None)

    def total(bias: float) -> float:
        column = np.zeros((STEPS, 4))
        column[1, 2] = bias
        candidate = Coefficients(CANDIDATE.c_x, CANDIDATE.c_eps, column)
        *_, last = objective.trajectory(batch, candidate)
        return float((np.sin(last.x_next.astype(np.float64)) ** 2).mean(axis=(1, 2, 3)).sum())

    _, found = batch_gradient(objective, torch.sin, batch, CANDIDATE, LOSS, "none")  # type: ignore[arg-type]
    assert found[2, 1, 2] == pytest.approx((total(1e-3) - total(-1e-3)) / 2e-3, rel=0.01)


def test_a_term_without_a_gradient_is_an_error_and_not_a_zero() -> None:
    objective = objective_of(Network(MIX, 0.1))
    objective.terms = lambda x, images, batch: {
        "text_image": (images**2).mean(dim=(1, 2, 3)),
        "quality": images.detach().mean(dim=(1, 2, 3)),
    }
    both = Loss(JAQ, dict.fromkeys(JAQ, 0.0), dict.fromkeys(JAQ, 1.0))
    with pytest.raises(MetricError, match="quality's metric has no gradient"):
        batch_gradient(objective, lambda x: x, None, CANDIDATE, both, "none")
