"""Quality metrics of pyiqa (no reference). Range and direction are each metric's own; lower-is-better ones are negated.

`piqe` and `entropy` need no weights. Those of `niqe`, `brisque`, `musiq`, `nima`, `topiq_nr`, `clipiqa`, `clipiqa+`,
`laion_aes` and others are fetched once by pyiqa itself, which is said beforehand; offline they must lie in its caches
already, or come there from `python -c "import pyiqa; pyiqa.create_metric(NAME)"`.
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
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

    def __init__(self, settings: TermSettings, device: str, name: str) -> None:
        self.metric = create(name, device)
        self.sign = -1.0 if self.metric.lower_better else 1.0
        self.low, self.high = bounds(self.metric.score_range, self.sign)

    def __call__(self, seen: Seen) -> torch.Tensor:
        return self.sign * self.metric(seen.images).reshape(len(seen.images))


def create(name: str, device: str, is_offline: bool = True, paired: bool = False) -> Any:
    """The metric with gradients, of those that need a reference picture if `paired`. Raises MetricError for a name
    that pyiqa lacks among them, or weights that are not here and may not be fetched."""
    pyiqa = library()
    kind, wants = ("FR", "with") if paired else ("NR", "without")
    if name not in pyiqa.list_models(metric_mode=kind):
        raise MetricError(f"pyiqa has no metric {name!r} {wants} a reference picture: see pyiqa.list_models('{kind}')")
    making = partial(pyiqa.create_metric, name, device=device, as_loss=True, loss_reduction="none")
    try:
        with offline(), redirect_stdout(io.StringIO()):  # pyiqa prints where results go what it loads, and from where
            return making()
    except Exception as error:  # pyiqa, torch and the hub's client each raise their own for a missing file
        if is_offline:
            hint = f"python -c \"import pyiqa; pyiqa.create_metric('{name}')\""
            raise MetricError(f"pyiqa's {name} cannot be set up offline; fetch its weights with: {hint}") from error
    print(
        f"pyiqa fetches the weights of {name}, kept in {pyiqa.utils.download_util.DEFAULT_CACHE_DIR}", file=sys.stderr
    )
    try:
        with redirect_stdout(sys.stderr):
            return making()
    except Exception as error:  # as above
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MetricError(f"pyiqa's {name} cannot be set up ({reason}): choose another metric") from error


def library() -> Any:
    torchvision_schema.declare()
    try:
        import pyiqa
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"metrics of pyiqa need it: {install_command('metrics')}") from error
    return pyiqa


@contextmanager
def offline() -> Iterator[None]:
    """The hub's client, torch.hub and urllib refuse to download meanwhile, under whatever name they were imported."""
    import urllib.request

    import huggingface_hub.constants as hub
    import torch.hub

    def refuse(url: Any, *rest: Any, **options: Any) -> None:
        raise OSError(f"{getattr(url, 'full_url', url)} would be downloaded")

    was, setting = hub.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    modules: tuple[Any, ...] = (torch.hub, urllib.request)
    openers = [(module, module.urlopen) for module in modules]
    hub.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    for module, _ in openers:
        module.urlopen = refuse
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = was
        for module, urlopen in openers:
            module.urlopen = urlopen
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
