"""The 4-step student, distilled by latent consistency (arXiv 2310.04378): `python -m training.student`."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, LCMScheduler

from training import latents, teacher
from training.loop import Settings, averaged, train

SETTINGS = Settings("student", steps=1600, learning_rate=2e-4, warmup=50, cooldown=0.4, ema=0.99)
BATCH = 32
GRID = 20  # LCM's timesteps: 19, 39, ... 999
SKIP = 4 * GRID  # one solver step of the teacher
GUIDANCE = (1.0, 3.0)
CONDITION = 64
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0
HUBER = 1e-3


def build():
    """The teacher's U-Net with an input for the guidance scale, which starts without effect."""
    student = teacher.build_unet(CONDITION)
    trained = teacher.load()["unet"].state_dict()
    missing, _ = student.load_state_dict(trained, strict=False)
    assert missing == ["time_embedding.cond_proj.weight"]
    torch.nn.init.zeros_(student.time_embedding.cond_proj.weight)
    return student.to(memory_format=torch.channels_last)


def guidance_embedding(w: torch.Tensor) -> torch.Tensor:
    """As diffusers' LatentConsistencyModelPipeline.get_guidance_scale_embedding."""
    rates = torch.exp(torch.arange(CONDITION // 2) * -(torch.log(torch.tensor(10000.0)) / (CONDITION // 2 - 1)))
    angles = 1000.0 * w[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Trajectory:
    """x0, epsilon and the deterministic solver, for a v-predicting network."""

    def __init__(self) -> None:
        alphas = DDIMScheduler(**teacher.SCHEDULE).alphas_cumprod
        self.alpha, self.sigma = alphas.sqrt(), (1 - alphas).sqrt()

    def at(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.alpha[t][:, None, None, None], self.sigma[t][:, None, None, None]

    def x0(self, x: torch.Tensor, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = self.at(t)
        return alpha * x - sigma * v

    def solve(self, x: torch.Tensor, v: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor) -> torch.Tensor:
        """One DDIM step from t to t_next."""
        alpha, sigma = self.at(t)
        epsilon = alpha * v + sigma * x
        alpha_next, sigma_next = self.at(t_next)
        return alpha_next * self.x0(x, v, t) + sigma_next * epsilon

    def consistent(self, x: torch.Tensor, v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The consistency function f(x, t) = c_skip x + c_out x0, which is x itself at t = 0."""
        scaled = (t * TIMESTEP_SCALING)[:, None, None, None]
        c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
        c_out = scaled / (scaled**2 + SIGMA_DATA**2) ** 0.5
        return c_skip * x + c_out * self.x0(x, v, t)


def main() -> None:
    torch.manual_seed(0)
    student, guide, data, path = build(), teacher.load(), latents.load(), Trajectory()
    guide["unet"].to(memory_format=torch.channels_last)
    with torch.no_grad():
        empty = guide["text_encoder"](data.empty[None]).last_hidden_state

    def loss_of(step: int) -> torch.Tensor:
        x0, ids = data.batch(BATCH)
        with torch.no_grad():
            states = guide["text_encoder"](ids).last_hidden_state
            t = torch.randint(1, 1000 // GRID + 1, (BATCH,)) * GRID - 1
            t_next = (t - SKIP).clamp(min=0)
            alpha, sigma = path.at(t)
            x = alpha * x0 + sigma * torch.randn_like(x0)
            w = torch.rand(BATCH) * (GUIDANCE[1] - GUIDANCE[0]) + GUIDANCE[0] - 1
            both = guide["unet"](
                torch.cat([x, x]), torch.cat([t, t]), torch.cat([states, empty.expand_as(states)])
            ).sample.float()
            v_prompt, v_empty = both.chunk(2)
            v = v_prompt + w[:, None, None, None] * (v_prompt - v_empty)
            x_next = path.solve(x, v, t, t_next)
            condition = guidance_embedding(w)
            v_target = student(x_next, t_next, states, timestep_cond=condition).sample.float()
            target = path.consistent(x_next, v_target, t_next)
        v_student = student(x, t, states, timestep_cond=condition).sample.float()
        difference = path.consistent(x, v_student, t) - target
        return (torch.sqrt(difference**2 + HUBER**2) - HUBER).mean()

    train(SETTINGS, student, loss_of)


def load():
    student = teacher.build_unet(CONDITION)
    student.load_state_dict(averaged(SETTINGS.name))
    return student.eval().requires_grad_(False)


def scheduler() -> LCMScheduler:
    return LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )  # fmt: skip


if __name__ == "__main__":
    main()
