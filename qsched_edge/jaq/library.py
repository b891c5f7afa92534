"""Metrics of pyiqa as judges: `pyiqa:NAME`, of one picture or against full precision's, and `lpips` for short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qsched_edge.errors import MetricError
from qsched_edge.jaq.iqa import create, library
from qsched_edge.jaq.judges import Distance, Drawn, Look, Reading
from qsched_edge.jaq.paired import in_8_bits
from qsched_edge.jaq.settings import JudgeSource


class LibraryMetric:
    """One metric; `paired` ones compare with full precision's picture of the same noise."""

    distances: Mapping[str, Distance] = {}

    def __init__(self, name: str, metric: Any, paired: bool, device: str) -> None:
        self.name, self.metric, self.paired, self.device = f"pyiqa:{name}", metric, paired, device
        self.files = frozenset([self.name])
        label = f"{name} to full precision" if paired else name
        self.readings = {self.name: Reading(label, name, not metric.lower_better, beside=paired)}

    def look(self, drawn: Drawn) -> Look:
        if self.paired and drawn.beside is None:
            return Look({})
        import torch

        images = [drawn.images]
        if self.paired and drawn.beside:
            images = [in_8_bits(drawn.images), in_8_bits(drawn.beside.images)]
        try:
            with torch.no_grad():
                found = self.metric(*(torch.from_numpy(i).to(self.device) for i in images))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:  # pictures too small for its network
            reason, size = (str(error).strip() or type(error).__name__).splitlines()[0], drawn.images.shape[2:]
            raise MetricError(
                f"{self.name} cannot look at {size[0]} x {size[1]} pixels ({reason}): leave it out"
            ) from error
        values = found.detach().double().reshape(len(drawn.images)).cpu().numpy()
        if not np.isfinite(values).all():
            raise MetricError(f"{self.name} is not finite: leave it out")
        return Look({self.name: values})

    def check(self, prompts: Sequence[str]) -> None:
        """Any will do."""


def pyiqa_metric(source: JudgeSource) -> LibraryMetric:
    """`source.what` is the metric's name."""
    if not source.what:
        raise MetricError("no metric is named: pyiqa:NAME")
    paired = source.what in library().list_models(metric_mode="FR")
    made = create(source.what, source.device, source.offline, paired)
    return LibraryMetric(source.what, made, paired, source.device)


def lpips(source: JudgeSource) -> LibraryMetric:
    """LPIPS (arXiv 1801.03924) to full precision's pictures."""
    return pyiqa_metric(replace(source, what=source.what or "lpips"))
