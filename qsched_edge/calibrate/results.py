"""What a job gives: values between engines and searches, JSON in the journal, floats to the bit."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from qsched_edge.calibrate.looks import looks_json, looks_of
from qsched_edge.jaq.judges import Look
from qsched_edge.jaq.loss import Scores
from qsched_edge.jaq.panel import together


class Result(Protocol):
    def json(self) -> dict[str, Any]:
        """What the journal keeps; a class of results has `of`, the inverse."""
        ...


R = TypeVar("R", bound=Result, covariant=True)


@dataclass(frozen=True)
class Done(Generic[R]):
    """A job's result and the seconds that it took."""

    result: R
    seconds: float

    def json(self) -> dict[str, Any]:
        return {**self.result.json(), "seconds": self.seconds}


@dataclass(frozen=True)
class Scored:
    """The raw terms of a batch of pictures."""

    scores: Scores

    def json(self) -> dict[str, Any]:
        return scores_json(self.scores)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Scored:
        return cls(scores_of(stored))


@dataclass(frozen=True)
class Looked:
    """Of one candidate's pictures: the loss's raw terms, what the gate's judges say, and what they say of full
    precision's."""

    scores: Scores
    looks: Mapping[str, Look]
    beside: Mapping[str, Look] | None

    def json(self) -> dict[str, Any]:
        beside = None if self.beside is None else looks_json(self.beside)
        return {**scores_json(self.scores), "looks": looks_json(self.looks), "beside": beside}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Looked:
        beside = looks_of(stored["beside"]) if stored["beside"] else None
        return cls(scores_of(stored), looks_of(stored["looks"]), beside)

    @classmethod
    def joined(cls, parts: Sequence[Looked]) -> Looked:
        """The batches', one after the other."""
        beside = [part.beside for part in parts if part.beside is not None]
        return cls(
            joined([part.scores for part in parts]),
            together([part.looks for part in parts]),
            together(beside) if beside else None,
        )


@dataclass(frozen=True)
class Gradient:
    """The sum of a batch's losses and its gradient float64 [3, steps, channels]."""

    total: float
    gradient: np.ndarray

    def json(self) -> dict[str, Any]:
        return {"total": self.total, "gradient": self.gradient.tolist()}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Gradient:
        return cls(stored["total"], np.array(stored["gradient"]))


@dataclass(frozen=True)
class Moments:
    """Paired moments float64 [MOMENTS, steps, channels] of a batch."""

    moments: np.ndarray

    def json(self) -> dict[str, Any]:
        return {"moments": self.moments.tolist()}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Moments:
        return cls(np.array(stored["moments"]))


def joined(parts: Sequence[Scores]) -> Scores:
    """The batches' scores, one after the other."""
    first = parts[0]
    return Scores(
        {name: np.concatenate([part.values[name] for part in parts]) for name in first.values},
        {name: np.concatenate([part.features[name] for part in parts]) for name in first.features},
    )


def scores_json(scores: Scores) -> dict[str, Any]:
    """Terms as lists; features, which are many, as the base64 of float32 rows."""
    return {
        "terms": {name: values.tolist() for name, values in scores.values.items()},
        "features": {name: rows_text(values) for name, values in scores.features.items()},
    }


def scores_of(stored: Mapping[str, Any]) -> Scores:
    """The inverse of `scores_json`."""
    return Scores(
        {name: np.array(values) for name, values in stored["terms"].items()},
        {name: text_rows(rows) for name, rows in stored.get("features", {}).items()},
    )


def rows_text(rows: np.ndarray) -> list[Any]:
    """[shape, base64] of float32 rows."""
    return [list(rows.shape), base64.b64encode(np.ascontiguousarray(rows, "<f4").tobytes()).decode()]


def text_rows(stored: Sequence[Any]) -> np.ndarray:
    """The inverse of `rows_text`."""
    shape, text = stored
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)
