"""How near a picture is to the true one: the reference picture that has the same caption, the nearest if several have.

It needs a folder of reference pictures with captions. `truth` compares pixels; `truth:MODEL` compares what a CLIP or
another vision model sees as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from qsched_edge.errors import MetricError
from qsched_edge.jaq.features import KNOWN, Features, encoder_of, weights_in
from qsched_edge.jaq.fetching import model_folder
from qsched_edge.jaq.judges import Distance, Drawn, Look, Reading
from qsched_edge.jaq.references import References
from qsched_edge.jaq.settings import JudgeSource

ERROR, LIKE = "true_error", "true_likeness"


class Truth:
    """`true_error` is the mean squared error to the true picture; `true_likeness` the cosine of both's features."""

    distances: Mapping[str, Distance] = {}

    def __init__(self, references: References, features: Features | None) -> None:
        self.references, self.features = references, features
        self.files = features.files if features else frozenset()
        self.readings = {ERROR: Reading("Squared error to the true picture", "error", False, "{:.4f}", "{:+.4f}")}
        if features:
            self.readings[LIKE] = Reading(f"Likeness to the true picture, {features.label}", "likeness")
        self.at_side = lru_cache(maxsize=1)(self._at_side)

    def _at_side(self, side: int) -> tuple[np.ndarray, np.ndarray | None]:
        """All reference pictures and their features."""
        images = self.references.square(side)
        return images, self.seen(images)

    def seen(self, images: np.ndarray) -> np.ndarray | None:
        if self.features is None:
            return None
        found = self.features.of(images)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def look(self, drawn: Drawn) -> Look:
        images, true = self.at_side(drawn.images.shape[-1])
        mine = self.seen(drawn.images)
        errors, likeness = [], []
        for i, prompt in enumerate(drawn.prompts):
            same = self.references.of(prompt)
            errors.append(((images[same] - drawn.images[i]) ** 2).mean(axis=(1, 2, 3)).min())
            if mine is not None and true is not None:
                likeness.append((true[same] @ mine[i]).max())
        values = {ERROR: np.array(errors, np.float64)}
        return Look(values | ({LIKE: np.array(likeness, np.float64)} if likeness else {}))

    def check(self, prompts: Sequence[str]) -> None:
        lacking = [prompt for prompt in prompts if not self.references.of(prompt)]
        if lacking:
            raise MetricError(f"no reference picture has the caption {lacking[0]!r}, nor {len(lacking) - 1} others")


def truth(source: JudgeSource) -> Truth:
    """`source.what` names the model, if there is one."""
    references = source.pictures()
    if references is None:
        raise MetricError("no folder of reference pictures is named: give --references FOLDER")
    if not source.what:
        return Truth(references, None)
    folder = model_folder(KNOWN.get(source.what, source.what), source.offline)
    label = source.what if source.what in KNOWN else Path(source.what).name
    encode, _ = encoder_of(folder, source.device)
    return Truth(references, Features(label, encode, weights_in(folder), source.device))
