"""Scores as a worker sends them and a journal keeps them: JSON, floats to the bit."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qsched_edge.jaq.loss import Scores


def scores_json(scores: Scores) -> dict[str, Any]:
    """Terms as lists; features, which are many, as the base64 of float32 rows."""
    return {
        "terms": {name: values.tolist() for name, values in scores.values.items()},
        "features": {name: rows_text(values) for name, values in scores.features.items()},
    }


def scores_of(parts: Sequence[Mapping[str, Any]]) -> Scores:
    """The batches' scores, one after the other."""
    first, features = parts[0], [part.get("features", {}) for part in parts]
    return Scores(
        {n: np.concatenate([part["terms"][n] for part in parts]) for n in first["terms"]},
        {n: np.concatenate([text_rows(part[n]) for part in features]) for n in features[0]},
    )


def rows_text(rows: np.ndarray) -> list[Any]:
    """[shape, base64] of float32 rows."""
    return [list(rows.shape), base64.b64encode(np.ascontiguousarray(rows, "<f4").tobytes()).decode()]


def text_rows(stored: Sequence[Any]) -> np.ndarray:
    """The inverse of `rows_text`."""
    shape, text = stored
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)
