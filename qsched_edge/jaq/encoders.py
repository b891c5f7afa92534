"""What the loss `distribution` sees: its encoders, and the features of reference pictures by them.

An encoder is one file with a maker, `maker(source) -> Encoder`, and one line in ENCODERS (terms.py). It turns pictures
with their captions into features; the loss is how far two sets of features are apart. What a recipe or `--fit` names
must share no file with the judges that decide or report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from qsched_runtime.manifest import sha256

from qsched_edge.checkpoint.recipes import Recipe
from qsched_edge.errors import MetricError, MissingExtraError, unknown_name
from qsched_edge.jaq.panel import located
from qsched_edge.jaq.references import References
from qsched_edge.jaq.settings import JudgeSource
from qsched_edge.jaq.terms import ENCODERS
from qsched_edge.lookup import lookup

DEFAULT = ("clip", "patches")
AT_ONCE = 32  # reference pictures


class Encoder(Protocol):
    """`files` is all that it looks through, by resolved path."""

    files: frozenset[str]

    def __call__(self, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """float32 [N, 3, H, W] in 0..1 and N captions -> float32 [N, D]; no captions where pictures have none."""


@dataclass(frozen=True)
class FitEncoders:
    """The names of a loss's encoders, the recipe whose paths they are, what they are made with, and the folder of
    reference pictures (`source.references`)."""

    names: tuple[str, ...]
    recipe: Recipe
    source: JudgeSource

    @cached_property
    def references(self) -> References:
        found = self.source.pictures()
        if found is None:
            raise MetricError("the loss distribution compares with reference pictures: give --references FOLDER")
        return found

    def made(self) -> dict[str, Encoder]:
        """Each by its name; MetricError for one that is unknown or not at hand."""
        return {name: self.one(name) for name in self.names}

    def one(self, name: str) -> Encoder:
        kind, _, what = name.partition(":")
        if kind not in ENCODERS:
            raise MetricError(unknown_name("encoder", kind, ENCODERS))
        encoder: Encoder = lookup(ENCODERS[kind])(replace(self.source, what=located(self.recipe, what)))
        return encoder

    def files_at_hand(self) -> frozenset[str]:
        """What the encoders look through, as far as it is here; nothing is fetched."""
        files: frozenset[str] = frozenset()
        for name in self.names:
            with suppress(MetricError, MissingExtraError):
                files |= replace(self, source=replace(self.source, offline=True)).one(name).files
        return files

    @property
    def captioned(self) -> bool:
        """Do all reference pictures have a caption? Then features are joint with it, else of pictures alone."""
        return all(self.references.captions)

    def seen(
        self, encoders: Mapping[str, Encoder], images: np.ndarray, prompts: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Features of pictures float32 [N, 3, H, W] in 0..1 by each encoder."""
        captions = prompts if self.captioned else ()
        return {name: encoder(images, captions) for name, encoder in encoders.items()}

    def identity(self, encoders: Mapping[str, Encoder]) -> dict[str, Any]:
        """All that the loss depends on beside the pictures: the encoders' files and the reference pictures."""
        files = {name: sha256(Path(name)) for name in sorted(files_of(encoders.values())) if Path(name).is_file()}
        pictures = [[file.name, text, sha256(file)] for file, text in self.references.pairs]
        return {"encoders": list(encoders), "files": files, "references": pictures}

    def of_references(self, encoders: Mapping[str, Encoder], side: int) -> dict[str, np.ndarray]:
        """Features of the reference pictures, seen with `side` pixels as the sampler's are, a few at a time."""
        parts = [self.seen(encoders, some.square(side), some.captions) for some in self.references.parts(AT_ONCE)]
        return {name: np.concatenate([part[name] for part in parts]) for name in encoders}


def files_of(encoders: Iterable[Encoder]) -> frozenset[str]:
    return frozenset().union(*(encoder.files for encoder in encoders))
