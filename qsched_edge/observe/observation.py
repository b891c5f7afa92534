"""Everything that was observed of a model: the 32-bit bundle, what its components were fed, their inputs' moments."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qsched_edge.observe.accumulate import MomentsFolder, observe
from qsched_edge.observe.trajectory import record
from qsched_edge.prompts import PromptSet
from qsched_edge.quantize.feeds import recorded
from qsched_edge.quantize.moments import Moments
from qsched_edge.work import progress
from qsched_edge.work.memory import RamLimit

MomentsOf = Callable[[str], Moments | None]


@dataclass(frozen=True)
class Observation:
    """Folders: the 32-bit bundle, feeds/COMPONENT, and moments/COMPONENT (None where no method asks for them)."""

    reference: Path
    feeds: Path
    moments: Path | None

    def graph(self, component: str) -> Path:
        return self.reference / component / "model.onnx"

    def feeds_of(self, component: str) -> list[Path]:
        return recorded(self.feeds, component)

    def moments_of(self, component: str) -> MomentsOf:
        if self.moments is None:
            return lambda name: None
        return MomentsFolder.of(self.graph(component), self.moments / component)


def write_feeds(reference: Path, prompts: PromptSet, count: int, quiet: bool, folder: Path) -> None:
    """Record the feeds of all components in `folder`, from the first prompt on."""
    for started in folder.iterdir():
        shutil.rmtree(started)
    with progress.bar("observe", count, "prompts", quiet) as advance:
        record(reference, prompts.first(count), folder, advance)


def write_moments(observation: Observation, components: list[str], ram: RamLimit, quiet: bool, folder: Path) -> None:
    """The moments of all `components`, in `folder`/COMPONENT."""
    for name in components:
        with progress.bar(f"{name} moments", 0, "inputs", quiet) as advance:
            observe(observation.graph(name), observation.feeds_of(name), folder / name, ram, advance)
