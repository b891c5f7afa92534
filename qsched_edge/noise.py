"""The one map of noise: which streams fitting, deciding, reporting and observing draw from. None meets another.

A stream is a seed of torch's generator on the processor. Every purpose has a range of `WIDTH` of them; in it a choice
("seed 3 of calibration", "seed 3 of the report") has `PROMPTS` streams, one for each prompt.
"""

from __future__ import annotations

from qsched_edge.errors import RequestError

PROMPTS = 10_000  # no prompt set is longer
CHOICES = 100  # 0 to 99
WIDTH = CHOICES * PROMPTS
PURPOSES = ("fitting", "deciding", "reporting", "observing")  # in the order of their ranges


def first_stream(purpose: str, choice: int = 0) -> int:
    """The stream of the first prompt; the next ones count up. `purpose` is one of PURPOSES, `choice` 0 to 99."""
    check_choice(choice)
    return PURPOSES.index(purpose) * WIDTH + choice * PROMPTS


def streams(purpose: str, count: int, choice: int = 0) -> range:
    """The streams of `count` prompts; raises RequestError for more than PROMPTS."""
    check_prompts("prompts", count)
    first = first_stream(purpose, choice)
    return range(first, first + count)


def check_choice(choice: int) -> None:
    if not 0 <= choice < CHOICES:
        raise RequestError(f"seed {choice} is out of range: use 0 to {CHOICES - 1}")


def check_prompts(name: str, count: int) -> None:
    if count > PROMPTS:
        raise RequestError(f"{name} {count} is too many: use {PROMPTS} or fewer")


def check_seeds(seeds: int) -> None:
    """How many choices of noise a report may draw every prompt with."""
    if not 1 <= seeds <= CHOICES:
        raise RequestError(f"seeds {seeds} per prompt: use 1 to {CHOICES}, more would meet noise of other purposes")
