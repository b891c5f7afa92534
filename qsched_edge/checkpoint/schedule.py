"""A stock diffusers scheduler, probed with unit inputs -> the schedule table; nothing of it is copied."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from qsched_runtime.noise import TorchNoise
from qsched_runtime.schedule import COLUMNS, ScheduleTable, Shift

from qsched_edge import torchvision_schema
from qsched_edge.checkpoint.samplers import SCHEDULERS
from qsched_edge.errors import ScheduleError, unknown_name

if TYPE_CHECKING:
    import torch

FEW = range(1, 9)  # step counts that every bundle has a schedule of
PROBE = 4096  # values per probe: rounding errors of the float32 schedulers average out
TOLERANCE = 2e-6


def stock_config(
    pipeline: str, config: Mapping[str, Any], chosen: str = "", settings: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The configuration of the scheduler that diffusers samples with, complete, as diffusers would save it.

    The stock class `pipeline` loads `config` (StableDiffusionPipeline mends old ones); then the class `chosen` takes
    it over, with `settings`, as `from_config` does. Raises ScheduleError for a class or a setting that is unknown.
    """
    wanted = chosen or str(config["_class_name"])
    check_settings(supported(wanted), settings)
    with refused(f"{wanted} does not take the settings"):
        scheduler = mended(pipeline, stock_class(str(config["_class_name"])).from_config(dict(config)))
        if chosen or settings:
            scheduler = supported(wanted).from_config(scheduler.config, **settings)
    return json.loads(scheduler.to_json_string())


def supported(name: str) -> Any:
    """The stock class, if its steps can be tabulated."""
    if name not in SCHEDULERS:
        raise ScheduleError(unknown_name("scheduler", name, SCHEDULERS))
    return stock_class(name)


def stock_class(name: str) -> Any:
    torchvision_schema.declare()
    import diffusers

    if not hasattr(diffusers, name):
        raise ScheduleError(f"diffusers has no scheduler {name!r}: the model's scheduler_config.json names it")
    return getattr(diffusers, name)


def mended(pipeline: str, scheduler: Any) -> Any:
    """`scheduler` as the stock pipeline has it once it is loaded: without the rest of the model, and silently."""
    kind = stock_class(pipeline)
    parameters = inspect.signature(kind.__init__).parameters
    parts = dict.fromkeys(n for n, p in parameters.items() if p.default is p.empty and n not in ("self", "kwargs"))
    quiet = {"requires_safety_checker": False} if "requires_safety_checker" in parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return kind(**{**parts, **quiet, "scheduler": scheduler}).scheduler


def check_settings(scheduler: Any, settings: Mapping[str, Any]) -> None:
    """diffusers drops a setting that the class does not have; here it is an error."""
    known = [name for name in inspect.signature(scheduler.__init__).parameters if name != "self"]
    for name in settings:
        if name not in known:
            raise ScheduleError(unknown_name(f"setting of {scheduler.__name__}", name, known))


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Whatever diffusers raises for settings it cannot work with (often in its arithmetic), as a ScheduleError."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, AttributeError, ImportError) as error:
        raise ScheduleError(f"{what}: {error}") from error


@dataclass(frozen=True)
class Sampling:
    """How a pipeline drives its scheduler: `sigmas` are handed to set_timesteps where the pipeline computes its own
    (FLUX), `eta` to step where it takes one (TCD, DDIM), and the network sees `timestep_scale` times the timestep.
    `shift` gives, for a number of steps, what the pipeline computes from the size of the picture (set_timesteps's `mu`)
    for schedulers with `use_dynamic_shifting`."""

    sigmas: Callable[[int], np.ndarray] | None = None
    eta: float = 0.0
    timestep_scale: float = 1.0
    shift: Callable[[int], Shift] | None = None


def probe(config: dict[str, Any], steps: int, sampling: Sampling = Sampling()) -> ScheduleTable:
    """The table of `steps` steps; raises ScheduleError for a scheduler that is not linear in (x, e, z)."""
    kind = supported(config.get("_class_name", ""))
    with refused(f"{kind.__name__} has no schedule of {steps} steps"):
        return tabulated(kind.from_config(config), steps, sampling)


def schedules_of(config: dict[str, Any], named: Iterable[int], sampling: Sampling) -> dict[int, ScheduleTable]:
    """The tables of the step counts `named`, the first being the default, and of 1 to 8 as far as there are any."""
    found = {steps: probe(config, steps, sampling) for steps in named}
    for steps in FEW:
        if steps not in found:
            with suppress(ScheduleError):  # nobody asked for this one
                found[steps] = probe(config, steps, sampling)
    return found


def tabulated(scheduler: Any, steps: int, sampling: Sampling) -> ScheduleTable:
    if steps > scheduler.config.num_train_timesteps:
        raise ScheduleError(f"{steps} steps are more than the {scheduler.config.num_train_timesteps} of the training")
    table = table_at(scheduler, steps, sampling)
    if table.shift:
        check_shift(scheduler, table, sampling)
    return table


def table_at(scheduler: Any, steps: int, sampling: Sampling, mu: float | None = None) -> ScheduleTable:
    """The table as it is probed at a mu (default: that of the bundle's size)."""
    set_steps(scheduler, steps, sampling, mu)
    return measured(scheduler, sampling)


def check_shift(scheduler: Any, table: ScheduleTable, sampling: Sampling) -> None:
    """Raise ScheduleError unless the table moves to another mu as the scheduler does."""
    assert table.shift is not None
    for mu in (table.shift.mu - 1, table.shift.mu + 1):
        expected, found = table_at(scheduler, len(table), sampling, mu), table.moved(mu)
        if not all(np.allclose(getattr(expected, n), getattr(found, n), rtol=1e-5, atol=1e-5) for n in COLUMNS):
            raise ScheduleError(f"{type(scheduler).__name__} does not shift by exp(mu): turn off use_dynamic_shifting")


def set_steps(scheduler: Any, steps: int, sampling: Sampling, mu: float | None = None) -> None:
    asked: dict[str, Any] = {"sigmas": sampling.sigmas(steps)} if sampling.sigmas else {"num_inference_steps": steps}
    if shift := shift_of(scheduler, steps, sampling):
        asked["mu"] = shift.mu if mu is None else mu
    scheduler.set_timesteps(**asked)


def shift_of(scheduler: Any, steps: int, sampling: Sampling) -> Shift | None:
    """How the scheduler's sigmas move with the size of the picture, if they do."""
    if not scheduler.config.get("use_dynamic_shifting"):
        return None
    if sampling.shift is None:
        raise ScheduleError(f"{type(scheduler).__name__} shifts with the image size: turn off use_dynamic_shifting")
    return sampling.shift(steps)


def measured(
    scheduler: Any, sampling: Sampling, at: Callable[[Any, torch.Tensor], Any] = lambda scheduler, t: scheduler
) -> ScheduleTable:
    """The table of the timesteps that `scheduler` is set to; `at(scheduler, t)` takes the step from timestep t."""
    starts = [start_of(scheduler, t) for t in scheduler.timesteps]
    rows = [probe_step(at(scheduler, t), t, sampling.eta) for t in scheduler.timesteps]
    c_in, a, b, c = np.array(rows, np.float64).T
    start_x0, start_noise = np.array(starts, np.float64).T
    timesteps = scheduler.timesteps.double().numpy() * sampling.timestep_scale
    sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))
    shift = shift_of(scheduler, len(timesteps), sampling)
    return ScheduleTable(timesteps, c_in, a, b, c, start_x0, start_noise, sigma, shift)


def start_of(scheduler: Any, t: torch.Tensor) -> tuple[float, float]:
    """(start_x0, start_noise): a clean picture's and the noise's share at timestep `t`."""
    import torch

    zero, one, at = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2), t.reshape(1)
    mixes = scheduler.scale_noise if hasattr(scheduler, "scale_noise") else scheduler.add_noise
    flow = hasattr(scheduler, "scale_noise")  # (sample, timestep, noise) there, (sample, noise, timesteps) elsewhere
    x0, noise = (mixes(s, at, n) if flow else mixes(s, n, at) for s, n in ((one, zero), (zero, one)))
    return float(x0.mean()), float(noise.mean())


def probe_step(scheduler: Any, t: torch.Tensor, eta: float) -> tuple[float, float, float, float]:
    """(c_in, a, b, c) of the step that `scheduler` stands at; leaves it at the next one.

    x' is measured at (x, e) = (1, 0), (0, 1) and (0, 0), then predicted at a random point: superposition.
    """
    import torch

    zero, one = torch.zeros(1, 1, 1, PROBE), torch.ones(1, 1, 1, PROBE)
    z = torch.from_numpy(TorchNoise(0).randn((1, 1, 1, PROBE)))
    c_in = float(scaled_input(scheduler, one, t).double().mean())
    noise_only = step_of(copy.deepcopy(scheduler), zero, t, zero, eta).double()
    c = float((noise_only * z).sum() / (z.double() ** 2).sum())
    c = 0.0 if not noise_only.any() else c
    a = float((step_of(copy.deepcopy(scheduler), zero, t, one, eta).double() - c * z).mean())
    b = float((step_of(copy.deepcopy(scheduler), one, t, zero, eta).double() - c * z).mean())
    x, e = (torch.from_numpy(TorchNoise(s).randn((1, 1, 1, PROBE))) for s in (1, 2))
    found = step_of(scheduler, 3 * e, t, 5 * x, eta).double()
    expected = 5 * a * x + 3 * b * e + c * z
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error <= TOLERANCE:
        raise ScheduleError(
            f"{type(scheduler).__name__} is not linear at timestep {float(t):g} (superposition error {error:.1e}): "
            f"{nonlinear_settings(scheduler.config)}"
        )
    return c_in, a, b, c


def step_of(scheduler: Any, e: torch.Tensor, t: torch.Tensor, x: torch.Tensor, eta: float) -> torch.Tensor:
    import torch

    scaled_input(scheduler, x, t)  # Euler schedulers find their place in the table here
    offered = {"generator": torch.Generator("cpu").manual_seed(0), "eta": eta}
    taken = inspect.signature(scheduler.step).parameters
    extra = {name: value for name, value in offered.items() if name in taken}
    return scheduler.step(e, t, x, return_dict=False, **extra)[0]


def scaled_input(scheduler: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Flow-matching schedulers have no scale_model_input: the network sees x itself."""
    return scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x


def nonlinear_settings(config: dict[str, Any]) -> str:
    """What to turn off, by name."""
    suspects = [k for k in ("thresholding", "clip_sample", "stochastic_sampling") if config.get(k)]
    return (
        f"turn off {', '.join(suspects)}" if suspects else "its settings make it depend on earlier steps or clip values"
    )


def fingerprint(table: ScheduleTable) -> str:
    """SHA-256 of the table: coefficients learned for one table are refused on another."""
    return hashlib.sha256(json.dumps(table_to_json(table), sort_keys=True).encode()).hexdigest()


def table_to_json(table: ScheduleTable) -> dict[str, Any]:
    columns = {name: getattr(table, name).tolist() for name in COLUMNS}
    shift = {"shift": json.loads(json.dumps(asdict(table.shift)))} if table.shift else {}
    return {"init_noise_sigma": table.init_noise_sigma, **columns, **shift}
