"""A training loop that can be stopped anywhere: loss curve as CSV, moving average, safetensors checkpoints."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file

from training.captions import HERE

RUNS = HERE / "runs"
CURVES = HERE / "curves"


@dataclass(frozen=True)
class Settings:
    """Length, rate and bookkeeping of one run; `cooldown` is the share of steps in which the rate falls to zero."""

    name: str
    steps: int
    learning_rate: float
    warmup: int = 200
    cooldown: float = 0.2
    ema: float = 0.999
    weight_decay: float = 1e-4
    checkpoint_every: int = 100
    log_every: int = 50


def rate_at(step: int, s: Settings) -> float:
    """Linear warm-up, constant, then linear to zero over the last `cooldown` share of the steps."""
    falling = max(1, int(s.steps * s.cooldown))
    return s.learning_rate * min(1.0, (step + 1) / s.warmup, max(0.0, (s.steps - step) / falling))


class Checkpoint:
    """Model, moving average and Adam's moments in one safetensors file, replaced by renaming."""

    def __init__(self, s: Settings, model: torch.nn.Module, ema: dict, optimizer: torch.optim.Optimizer) -> None:
        self.path = RUNS / f"{s.name}.safetensors"
        self.model, self.ema, self.optimizer = model, ema, optimizer

    def tensors(self) -> dict[str, torch.Tensor]:
        kept = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        kept |= {f"ema.{k}": v for k, v in self.ema.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            kept |= {f"adam.{i}.{k}": v for k, v in state.items()}
        return {k: v.detach().contiguous().clone() for k, v in kept.items()}

    def save(self, step: int, seconds: float) -> None:
        RUNS.mkdir(exist_ok=True)
        partial = self.path.with_suffix(".partial")
        save_file(self.tensors(), partial, metadata={"progress": json.dumps({"step": step, "seconds": seconds})})
        os.replace(partial, self.path)

    def load(self) -> tuple[int, float]:
        """Restore everything; returns (steps done, seconds spent)."""
        from safetensors import safe_open

        if not self.path.exists():
            return 0, 0.0
        stored = load_file(self.path)
        self.model.load_state_dict({k[6:]: v for k, v in stored.items() if k.startswith("model.")})
        self.ema.update({k[4:]: v for k, v in stored.items() if k.startswith("ema.")})
        moments = self.optimizer.state_dict()
        for key, value in stored.items():
            if key.startswith("adam."):
                _, i, field = key.split(".")
                moments["state"].setdefault(int(i), {})[field] = value
        self.optimizer.load_state_dict(moments)
        with safe_open(self.path, "pt") as handle:
            progress = json.loads(handle.metadata()["progress"])
        return progress["step"], progress["seconds"]


def train(
    s: Settings,
    model: torch.nn.Module,
    loss_of: Callable[[int], torch.Tensor],
    after_step: Callable[[dict], None] | None = None,
) -> dict:
    """Run (or finish) a training; `loss_of(step)` draws its own batch. Returns the moving average of the weights.

    `after_step` receives the moving average after each step (a consistency target lives there).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, s.learning_rate, betas=(0.9, 0.99), weight_decay=s.weight_decay, fused=True
    )
    ema = {k: v.detach().clone() for k, v in model.state_dict().items()}
    checkpoint = Checkpoint(s, model, ema, optimizer)
    done, spent = checkpoint.load()
    start, losses = time.time() - spent, []
    model.train()
    for step in range(done, s.steps):
        torch.manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, s)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average_into(ema, model, min(s.ema, (1 + step) / (10 + step)))
        if after_step:
            after_step(ema)
        losses.append(loss.item())
        if (step + 1) % s.log_every == 0:
            log(s, step + 1, sum(losses) / len(losses), time.time() - start)
            losses = []
        if (step + 1) % s.checkpoint_every == 0 or step + 1 == s.steps:
            checkpoint.save(step + 1, time.time() - start)
    return ema


@torch.no_grad()
def average_into(ema: dict, model: torch.nn.Module, decay: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            ema[name].lerp_(value, 1 - decay)
        else:
            ema[name].copy_(value)


def log(s: Settings, step: int, loss: float, seconds: float) -> None:
    CURVES.mkdir(exist_ok=True)
    path = CURVES / f"{s.name}.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as handle:
        writer = csv.writer(handle)
        if fresh:
            writer.writerow(["step", "loss", "seconds"])
        writer.writerow([step, f"{loss:.5f}", f"{seconds:.0f}"])
    print(f"{s.name} {step}/{s.steps} loss {loss:.5f} {seconds:.0f} s", flush=True)


def averaged(name: str) -> dict:
    """The moving average that run `name` has stored."""
    return {k[4:]: v for k, v in load_file(RUNS / f"{name}.safetensors").items() if k.startswith("ema.")}
