"""What a component was fed while the model drew, as it lies on disk: one .npz for each call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from qsched_runtime.sessions import Feeds


def recorded(folder: Path, component: str) -> list[Path]:
    """Files of the component's feeds, in the order they were recorded."""
    return sorted((folder / component).glob("*.npz"))


def read_feeds(path: Path) -> Feeds:
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of `paths`, evenly spread over the trajectory."""
    picked = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [paths[i] for i in dict.fromkeys(picked)]
