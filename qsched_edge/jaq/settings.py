"""Which metrics make JAQ, and which model a judge looks through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qsched_edge.errors import MetricError


@dataclass(frozen=True)
class TermSettings:
    """`scorer` is an open_clip folder; `hps` a checkpoint (or empty: the hub's cache); a quality metric of pyiqa is
    written "pyiqa:NAME"."""

    scorer: str = ""
    text_image: str = "clip"
    quality: str = "clip-iqa"
    quality_prompts: tuple[str, str] = ("Good photo.", "Bad photo.")
    hps: str = ""

    def folder(self) -> Path:
        if not self.scorer:
            raise MetricError("the recipe names no scorer: add scorer = FOLDER of an open_clip model")
        return Path(self.scorer)


@dataclass(frozen=True)
class JudgeSource:
    """`what` names the model of a judge (a folder, a file, a hub id or a name that the judge knows; empty: its own
    default); `device` is torch's name; `terms` are the metrics of the loss, for the judge that reports them."""

    what: str = ""
    device: str = "cpu"
    terms: TermSettings = TermSettings()
