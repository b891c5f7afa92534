"""The one map of noise streams: which seeds of pictures fitting, deciding, reporting and observing draw with.

    fitting      seed x 10,000 + prompt                 below 1,000,000
    deciding     1,000,000 + seed x 10,000 + prompt     held-out prompts of a calibration
    reporting    2,000,000 + noise x 10,000 + prompt    evaluations and second judges
    observing    3,000,000 + prompt                     what quantizers are shown

All published numbers are of these streams. Within the bounds that are checked here no two of them meet.
"""

from __future__ import annotations

from qsched_edge.errors import RequestError

PROMPTS, SEEDS = 10_000, 100  # the longest prompt set, and how many seeds there are
DECIDING, REPORTING, OBSERVING = (n * SEEDS * PROMPTS for n in (1, 2, 3))


def fitting(seed: int, prompt: int = 0) -> int:
    """The stream of a fitting prompt; `seed` is the calibration's."""
    return seed * PROMPTS + prompt


def deciding(seed: int, prompt: int = 0) -> int:
    """The stream of a held-out prompt; `seed` is the calibration's."""
    return DECIDING + fitting(seed, prompt)


def reporting(noise: int, prompt: int) -> int:
    """The stream of a prompt's noise number `noise` in a report."""
    return REPORTING + fitting(noise, prompt)


def observing(prompt: int) -> int:
    """The stream of a prompt that is observed; the last of the map, which has room for SEEDS times as many prompts."""
    if not 0 <= prompt < SEEDS * PROMPTS:
        raise RequestError(f"prompt number {prompt} is too many to observe: use {SEEDS * PROMPTS} or fewer")
    return OBSERVING + prompt


def check_seed(seed: int) -> None:
    """Raises RequestError for a seed whose streams would meet those of another purpose."""
    if not 0 <= seed < SEEDS:
        raise RequestError(f"seed {seed} is out of range: use 0 to {SEEDS - 1}")


def check_prompts(name: str, count: int) -> None:
    """Raises RequestError for a prompt set, called `name`, that would run into the streams of the next seed."""
    if count > PROMPTS:
        raise RequestError(f"{name} {count} is too many: use {PROMPTS} or fewer")


def check_noises(name: str, count: int) -> None:
    """Raises RequestError for more noises to a prompt than there are seeds."""
    if count > SEEDS:
        raise RequestError(f"{name} {count} is too many: use {SEEDS} or fewer")
