"""What a caller may ask for: each argument is held to its type and its range, or is a RequestError that names it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from qsched_runtime.errors import RequestError

MOST_PICTURES = 256  # in one call
MOST_PIXELS = 2**26  # of all pictures of one call: 64 of 1024 x 1024, some 10 GB of a decoder's activations
LONGEST_PROMPT = 10_000  # characters; the longest text encoder reads 512 tokens
SEEDS = (-(2**63), 2**64 - 1)  # what torch's generator takes
GUIDANCE = (0.0, 1000.0)


def texts(name: str, value: Any) -> list[str]:
    """A text or several -> a list; RequestError for what is no text, is empty, too long or no Unicode."""
    found = [value] if isinstance(value, str) else listed(name, value, "a text or a list of texts")
    if not 0 < len(found) <= MOST_PICTURES:
        raise RequestError(f"{len(found)} texts as {name}: give 1 to {MOST_PICTURES}")
    for text in found:
        if not isinstance(text, str):
            raise RequestError(f"{name} holds {shown(text)}: give text")
        if len(text) > LONGEST_PROMPT:
            raise RequestError(f"{name} has {len(text)} characters: give {LONGEST_PROMPT} at most")
        if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
            raise RequestError(f"{name} {shown(text)} holds half of a surrogate pair: give Unicode text")
    return found


def integer(name: str, value: Any, low: int, high: int) -> int:
    """RequestError unless `value` is a whole number (no bool) of low..high."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise RequestError(f"{name} is {shown(value)}: give a whole number")
    if not low <= value <= high:
        raise RequestError(f"{name} {shown(int(value))} is out of range: use {low} to {high}")
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """RequestError unless `value` is a finite number (no bool) of low..high."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise RequestError(f"{name} is {shown(value)}: give a number")
    if not low <= value <= high:  # NaN is neither
        raise RequestError(f"{name} {shown(value)} is out of range: use {low:g} to {high:g}")
    return float(value)


def seeds_of(seed: Any, batch: int) -> list[int]:
    """One seed for all, or one for each picture; None draws one of 0..2^32 - 1, as many as torch tells apart."""
    if seed is None:
        return [secrets.randbits(32)]
    single = np.ndim(seed) == 0 if isinstance(seed, np.ndarray) else not isinstance(seed, Sequence)
    found = [seed] if single or isinstance(seed, (str, bytes)) else list(seed)
    if len(found) not in (1, batch):
        raise RequestError(f"{len(found)} seeds for {batch} prompts: give one, or one for each")
    return [integer("seed", s, *SEEDS) for s in found]


def pictures(image: Any, batch: int, streams: int) -> np.ndarray:
    """uint8 [1 or batch, H, W, 3] of an array, a PIL image or a list of them; one picture stays one where one stream
    gives all noise, as in diffusers."""
    try:
        found = np.asarray(image)
    except Exception as error:  # whatever the object's own conversion raises
        raise RequestError(f"image is {shown(image)}: give uint8 [H, W, 3]") from error
    found = found[None] if found.ndim == 3 else found
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[-1] != 3 or len(found) not in (1, batch):
        raise RequestError(f"image is {found.dtype} {list(found.shape)}: give uint8 [H, W, 3] or [{batch}, H, W, 3]")
    return found if streams == 1 else np.broadcast_to(found, (batch, *found.shape[1:]))


def check_room(pictures: int, height: int, width: int) -> None:
    """RequestError for more pixels in one call than memory is likely to hold."""
    if pictures * height * width > MOST_PIXELS:
        raise RequestError(f"{pictures} pictures of {height} x {width} pixels are too many at once: ask for fewer")


def first_step(steps: int, strength: Any, rounds_up: bool) -> int:
    """Where sampling starts from a picture; a fraction of a step is taken or, as most families do, left out."""
    share = number("strength", strength, 0.0, 1.0)
    first = int(steps - steps * share) if rounds_up else steps - int(steps * share)
    if first >= steps:
        raise RequestError(f"strength {share:g} leaves no step of {steps}: use {1 / steps:g} to 1")
    return first


def listed(name: str, value: Any, wanted: str) -> list[Any]:
    if isinstance(value, (bytes, dict)) or not isinstance(value, Iterable):
        raise RequestError(f"{name} is {shown(value)}: give {wanted}")
    return list(value)


def shown(value: Any) -> str:
    """`value` in a message: never longer than a few words, never a control character."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value) if isinstance(value, (str, bytes, int, float, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
