"""Which metrics make JAQ, and which model a judge looks through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qsched_edge.errors import MetricError

if TYPE_CHECKING:
    from qsched_edge.jaq.references import References


@dataclass(frozen=True)
class TermSettings:
    """`scorer` is a CLIP model: a folder or a hub id. `text_image` and `quality` are a metric, METRIC:MODEL, or a model
    alone, for CLIP by it; a metric of pyiqa is written "pyiqa:NAME"; an empty one is not measured. `hps` is HPSv2's
    checkpoint. `found` says where the models that they name lie, as (name, path)."""

    scorer: str = ""
    text_image: str = "clip"
    quality: str = "clip-iqa"
    quality_prompts: tuple[str, str] = ("Good photo.", "Bad photo.")
    hps: str = ""
    found: tuple[tuple[str, str], ...] = ()

    def path(self, model: str) -> Path:
        """Where the model called `model` lies; MetricError where none is named."""
        if not model:
            raise MetricError("the recipe names no scorer: give --scorer, a folder or hub id of a CLIP model")
        return Path(dict(self.found).get(model, model))

    def folder(self, what: str = "") -> Path:
        """Of the CLIP model `what`, by default the scorer."""
        return self.path(what or self.scorer)


@dataclass(frozen=True)
class JudgeSource:
    """`what` names the model of a judge (a folder, a file, a hub id or a name that the judge knows; empty: its own
    default); `device` is torch's name; `terms` are the metrics of the loss, for the judge that reports them;
    `references` is a folder of reference pictures; `offline` judges fetch nothing."""

    what: str = ""
    device: str = "cpu"
    terms: TermSettings = TermSettings()
    references: str = ""
    offline: bool = True

    def pictures(self) -> References | None:
        """The reference pictures, if there are any."""
        from qsched_edge.jaq.references import References

        return References.of_folder(Path(self.references)) if self.references else None
