"""The terms of a picture: a line for each, and the one place that names them. It imports nothing of the project.

A term is one file with a maker, `maker(settings, device) -> measure`, and one line in TERMS. `measure(seen)` takes a
`Seen` and returns float32 or float64 [B], one number for each picture, differentiable in what it looks at. Every term
is a loss of its own name as well ("text-image" for "text_image"), and JAQ weighs two of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Seen:
    """What terms look at: images float32 [B, 3, H, W] in 0..1, B prompts, the last latents [B, C, h, w], and those of
    full precision from the same noise (None where it was not drawn)."""

    images: torch.Tensor
    prompts: Sequence[str]
    latents: torch.Tensor
    target: torch.Tensor | None = None


@dataclass(frozen=True)
class Term:
    """`maker` is "module:name"; `low` and `high` are its range, unless what it makes has a `low` and a `high` of its
    own; `form` and `signed` print a value and a difference; `compares` says that it needs full precision's latents."""

    maker: str
    label: str
    short: str
    low: float = -math.inf
    high: float = math.inf
    more_is_better: bool = True
    form: str = "{:.4f}"
    signed: str = "{:+.4f}"
    compares: bool = False


TERMS: dict[str, Term] = {
    "text_image": Term("qsched_edge.jaq.metrics:text_image", "TC, text-image similarity", "TC", -1.0, 1.0),
    "quality": Term("qsched_edge.jaq.metrics:quality", "IQ, image quality", "IQ", 0.0, 1.0),
    "reference": Term(
        "qsched_edge.jaq.reference:reference", "nearness to full precision's latents", "reference", high=0.0,
        form="{:.5f}", signed="{:+.5f}", compares=True,
    ),
}  # fmt: skip

# the metrics that two of the terms choose from: METRIC, METRIC:MODEL or a model alone, which is the first metric's;
# a maker here is `maker(settings, device, model)`
TEXT_IMAGE = {
    "clip": "qsched_edge.jaq.text_image:similarity",
    "hps": "qsched_edge.jaq.hps:hps",
}
QUALITY = {
    "clip-iqa": "qsched_edge.jaq.quality:clip_iqa",
    "hps": "qsched_edge.jaq.hps:hps",
    "pyiqa": "qsched_edge.jaq.iqa:PyIQA",
}
LIBRARIES = ("pyiqa",)  # their metrics have names of their own: "pyiqa:NAME"


DISTRIBUTION = "distribution"  # the loss of the set of all pictures, which no term of single ones makes up
# what that loss sees: KIND or KIND:MODEL; a maker here is `maker(source) -> Encoder` (encoders.py)
ENCODERS = {
    "clip": "qsched_edge.jaq.joint:clip",
    "features": "qsched_edge.jaq.joint:features",
    "shallow": "qsched_edge.jaq.joint:shallow",
    "patches": "qsched_edge.jaq.patches:patches",
}
COMBINE = ("sum", "worst")  # its encoders' gains, each in its unit


def picture_terms() -> tuple[str, ...]:
    """The names of the terms that need nothing but the picture itself."""
    return tuple(name for name, term in TERMS.items() if not term.compares)


def compares(loss: str) -> bool:
    """Does the loss of that name weigh a term that needs full precision's latents?"""
    return loss != DISTRIBUTION and any(TERMS[name].compares for name in losses()[loss])


def losses(k: float = 2.0) -> dict[str, Mapping[str, float]]:
    """Name of a loss -> the weights of its terms: JAQ, and every term alone."""
    alone = {name: {name: 1.0 if term.more_is_better else -1.0} for name, term in TERMS.items()}
    return {"jaq": {"text_image": 1.0, "quality": k}, **{name.replace("_", "-"): w for name, w in alone.items()}}
