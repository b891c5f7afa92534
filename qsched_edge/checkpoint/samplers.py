"""Which stock schedulers a bundle can hold, and what to give instead of the others; imports nothing heavy."""

from __future__ import annotations

from qsched_edge.checkpoint.defaults import FEW_STEPS, Traits
from qsched_edge.errors import ScheduleError, unknown_name

SCHEDULERS = (
    "DDIMScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "LCMScheduler",
    "TCDScheduler",
)
HISTORY = (  # their steps look at earlier ones, or ask the network more than once
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)


FLOWS = ("FluxPipeline", "Flux2KleinPipeline", "StableDiffusion3Pipeline", "ZImagePipeline")


def check_scheduler(traits: Traits) -> None:
    """Raise ScheduleError, with what to give instead, for a scheduler whose steps are no table."""
    if traits.scheduler in HISTORY:
        raise ScheduleError(f"{traits.scheduler} looks back at earlier steps, a bundle does not: {remedy(traits)}")
    if traits.scheduler and traits.scheduler not in SCHEDULERS:
        raise ScheduleError(unknown_name("scheduler", traits.scheduler, SCHEDULERS))


def remedy(traits: Traits) -> str:
    """The option that fits this model, as far as its files and its name tell."""
    if traits.pipeline in FLOWS:
        return "give --scheduler FlowMatchEulerDiscreteScheduler"
    if traits.embedded:
        return "this looks like an LCM fine-tune: --scheduler LCMScheduler"
    if offered := few_step_scheduler(traits.name):
        return f"this looks like {KINDS[offered]}: --scheduler {offered}"
    return "give --scheduler DDIMScheduler or EulerDiscreteScheduler, or what a model of few steps was made for"


KINDS = {
    "LCMScheduler": "an LCM fine-tune",
    "TCDScheduler": "a model for TCD",
    "EulerDiscreteScheduler": "a Turbo or Lightning fine-tune",
}


def few_step_scheduler(name: str) -> str:
    """The stock scheduler that models of few steps with such a name were made for, or ""."""
    kind = FEW_STEPS.search(name)
    word = kind.group().lower() if kind else ""
    if word in ("turbo", "lightning"):
        return "EulerDiscreteScheduler"
    if word in ("lcm", "dmd"):
        return "LCMScheduler"
    return "TCDScheduler" if word in ("pcm", "tcd") or word.startswith("hyper") else ""
