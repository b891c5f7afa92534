"""Makers of the two terms that choose their metric by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qsched_edge.errors import MetricError, unknown_name
from qsched_edge.jaq.settings import TermSettings
from qsched_edge.jaq.terms import LIBRARIES, QUALITY, TEXT_IMAGE, Seen
from qsched_edge.lookup import lookup

if TYPE_CHECKING:
    import torch

Measure = Callable[[Seen], "torch.Tensor"]


def text_image(settings: TermSettings, device: str) -> Measure:
    return metric(TEXT_IMAGE, settings.text_image, settings, device)


def quality(settings: TermSettings, device: str) -> Measure:
    return metric(QUALITY, settings.quality, settings, device)


def metric(registry: dict[str, str], name: str, settings: TermSettings, device: str) -> Measure:
    """The metric of that name; raises MetricError for one that the registry lacks."""
    kind, colon, _ = name.partition(":")
    if kind not in registry:
        raise MetricError(unknown_name("metric", name, registry))
    if colon and kind not in LIBRARIES:
        raise MetricError(f"metric {name!r}: {kind} is one metric and takes no name after a colon: write {kind}")
    made: Measure = lookup(registry[kind])(settings, device)
    return made
