"""Quality metrics of pyiqa (no reference). Range and direction are each metric's own; lower-is-better ones are negated.

Their weights must lie in the local caches already: nothing is downloaded here. `niqe`, `brisque`, `musiq`, `nima`,
`topiq_nr`, `clipiqa`, `laion_aes` and others get them once from `python -c "import pyiqa; pyiqa.create_metric(NAME)"`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qsched_edge import torchvision_schema
from qsched_edge.errors import MetricError, MissingExtraError
from qsched_edge.installed import install_command
from qsched_edge.jaq.terms import Seen

if TYPE_CHECKING:
    import torch

    from qsched_edge.jaq.settings import TermSettings


class PyIQA:
    """`quality = "pyiqa:NAME"`."""

    def __init__(self, settings: TermSettings, device: str) -> None:
        name = settings.quality.partition(":")[2]
        self.metric = create(name, device)
        self.sign = -1.0 if self.metric.lower_better else 1.0
        self.low, self.high = bounds(self.metric.score_range, self.sign)

    def __call__(self, seen: Seen) -> torch.Tensor:
        return self.sign * self.metric(seen.images).reshape(len(seen.images))


def create(name: str, device: str) -> Any:
    """The metric with gradients; MetricError for a name pyiqa lacks, one that compares with a reference picture, or
    weights that are not here."""
    torchvision_schema.declare()
    try:
        import pyiqa
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"metrics of pyiqa need it: {install_command('metrics')}") from error
    if name not in pyiqa.list_models(metric_mode="NR"):
        raise MetricError(f"pyiqa has no metric {name!r} without a reference picture: see pyiqa.list_models('NR')")
    try:
        with offline():
            return pyiqa.create_metric(name, device=device, as_loss=True, loss_reduction="none")
    except Exception as error:  # pyiqa, torch and the hub's client each raise their own for a missing file
        hint = f"python -c \"import pyiqa; pyiqa.create_metric('{name}')\""
        raise MetricError(f"pyiqa's {name} cannot be set up offline; fetch its weights with: {hint}") from error


@contextmanager
def offline() -> Iterator[None]:
    """The hub's client and torch.hub refuse to download meanwhile."""
    import huggingface_hub.constants as hub
    import torch.hub

    def refuse(url: str, *rest: Any, **options: Any) -> None:
        raise OSError(f"{url} would be downloaded")

    was, load, setting = hub.HF_HUB_OFFLINE, torch.hub.download_url_to_file, os.environ.get("HF_HUB_OFFLINE")
    hub.HF_HUB_OFFLINE, torch.hub.download_url_to_file = True, refuse
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, torch.hub.download_url_to_file = was, load
        os.environ.pop("HF_HUB_OFFLINE")
        if setting is not None:
            os.environ["HF_HUB_OFFLINE"] = setting


def bounds(text: str | None, sign: float) -> tuple[float, float]:
    """pyiqa writes a range as "0, 1" or "~0, ~100"; approximate ends are no ends."""
    parts = [p.strip() for p in (text or "").split(",")]
    ends = [-math.inf, math.inf]
    for i, part in enumerate(parts[:2]):
        if part and "~" not in part:
            ends[i] = float(part)
    low, high = sorted(sign * e for e in ends)
    return low, high
