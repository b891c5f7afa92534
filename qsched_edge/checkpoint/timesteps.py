"""Schedules at timesteps of one's own: a stock scheduler is set to them and probed, whether or not it takes any."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from qsched_runtime.schedule import ScheduleTable

from qsched_edge.checkpoint.schedule import Sampling, measured, refused, set_steps, supported
from qsched_edge.errors import ScheduleError

if TYPE_CHECKING:
    import torch


def probe_at(config: dict[str, Any], timesteps: Sequence[float], sampling: Sampling) -> ScheduleTable:
    """The table of as many steps at timesteps of one's own, in the scheduler's unit, falling.

    Schedulers that take none are set to them: those that step from sigma to sigma get the sigmas that belong to these
    timesteps, and DDIM the cumulated alphas of the step's two ends. Raises ScheduleError for timesteps that do not
    fall within the training's.
    """
    kind, wanted = supported(config.get("_class_name", "")), [float(t) for t in timesteps]
    count = int(config.get("num_train_timesteps", 1000))
    if not wanted or not wanted[-1] >= 0 or not wanted[0] <= count or any(np.diff(wanted) >= 0):
        raise ScheduleError(f"timesteps {wanted} must fall, from {count} at most to 0 at least")
    with refused(f"{kind.__name__} has no schedule at timesteps {wanted}"):
        scheduler = placed(kind.from_config(config), wanted, sampling)
        return measured(scheduler, sampling, stepwise) if steps_by_ratio(scheduler) else measured(scheduler, sampling)


def steps_by_ratio(scheduler: Any) -> bool:
    """DDIM alone: the end of a step lies a fixed number of timesteps below its begin, whatever comes next."""
    return not hasattr(scheduler, "sigmas") and not takes_timesteps(scheduler)


def takes_timesteps(scheduler: Any) -> bool:
    return "timesteps" in inspect.signature(scheduler.set_timesteps).parameters and not hasattr(scheduler, "sigmas")


def placed(scheduler: Any, timesteps: Sequence[float], sampling: Sampling) -> Any:
    """The scheduler, set to these timesteps."""
    import torch

    set_steps(scheduler, len(timesteps), sampling)
    if takes_timesteps(scheduler):
        with quiet_diffusers():  # it warns of timesteps that the training did not use
            scheduler.set_timesteps(timesteps=[int(t) for t in timesteps])
        return scheduler
    if hasattr(scheduler, "sigmas"):
        scheduler.sigmas = torch.tensor([*sigmas_at(scheduler, timesteps), float(scheduler.sigmas[-1])])
    scheduler.timesteps = torch.tensor(timesteps, dtype=scheduler.timesteps.dtype)
    return scheduler


def sigmas_at(scheduler: Any, timesteps: Sequence[float]) -> list[float]:
    """sigma of each timestep: its share of the training's where pictures flow, else between the training's own."""
    count = scheduler.config.num_train_timesteps
    if not hasattr(scheduler, "alphas_cumprod"):
        return [t / count for t in timesteps]
    alphas = scheduler.alphas_cumprod.double().numpy()
    return np.interp(timesteps, np.arange(count), np.sqrt((1 - alphas) / alphas)).tolist()


def stepwise(scheduler: Any, t: torch.Tensor) -> Any:
    """The scheduler as it takes the step from `t` to its next timestep, or to the picture itself after the last one.

    It looks for the step's end one timestep below `t`, and finds the alpha of the next one there.
    """
    step, i = copy.deepcopy(scheduler), int((scheduler.timesteps == t).nonzero()[0, 0])
    after = scheduler.timesteps[i + 1 :]
    if t > 0:
        step.alphas_cumprod[t - 1] = scheduler.alphas_cumprod[after[0]] if len(after) else step.final_alpha_cumprod
    step.num_inference_steps = step.config.num_train_timesteps
    return step


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
