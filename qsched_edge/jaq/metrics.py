"""Makers of the two terms that choose their metric by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qsched_edge.jaq.scorers import metric_of
from qsched_edge.jaq.settings import TermSettings
from qsched_edge.jaq.terms import QUALITY, TEXT_IMAGE, Seen
from qsched_edge.lookup import lookup

if TYPE_CHECKING:
    import torch

Measure = Callable[[Seen], "torch.Tensor"]


def text_image(settings: TermSettings, device: str) -> Measure:
    return metric(TEXT_IMAGE, settings.text_image, settings, device)


def quality(settings: TermSettings, device: str) -> Measure:
    return metric(QUALITY, settings.quality, settings, device)


def metric(registry: dict[str, str], name: str, settings: TermSettings, device: str) -> Measure:
    """The metric of that name, by the model that it names; raises MetricError for one that the registry lacks."""
    kind, what = metric_of(registry, name)
    made: Measure = lookup(registry[kind])(settings, device, what)
    return made
