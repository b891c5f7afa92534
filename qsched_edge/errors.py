"""The whole tree of errors.

    QSchedError                 (qsched_runtime) every error this project raises on purpose
    ├── BundleError             (qsched_runtime) the bundle's files or its qsched.json cannot be used
    ├── RequestError            (qsched_runtime) a request the bundle cannot serve
    ├── ProviderError           (qsched_runtime) an execution provider is missing or refuses a graph
    ├── MissingExtraError       a stage's optional packages are not installed
    ├── OutputExistsError       an output is in the way and --force was not given
    ├── RecipeError             a recipe, a model folder or a name of one cannot be used
    ├── CaptureError            an architecture cannot be turned into a graph
    ├── WeightsError            weights are missing, misshapen or unreadable
    ├── QuantizeError           a quantization scheme or its result is unsound
    ├── ScheduleError           a scheduler is not linear in (x, e, z), or coefficients do not fit
    ├── PromptsError            a prompt file is missing, empty or unreadable
    └── MetricError             a scorer or metric is missing, unreadable or not finite

The command line prints one as a single line and exits with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from qsched_runtime.errors import BundleError, ProviderError, QSchedError, RequestError

__all__ = [
    "BundleError",
    "CaptureError",
    "MetricError",
    "MissingExtraError",
    "OutputExistsError",
    "PromptsError",
    "ProviderError",
    "QSchedError",
    "QuantizeError",
    "RecipeError",
    "RequestError",
    "ScheduleError",
    "WeightsError",
    "unknown_name",
]


class MissingExtraError(QSchedError):
    """A stage's optional packages are not installed."""


class OutputExistsError(QSchedError):
    """An output is in the way and --force was not given."""


class RecipeError(QSchedError):
    """A recipe, a model folder or a name of one cannot be used."""


class CaptureError(QSchedError):
    """An architecture cannot be turned into a graph."""


class WeightsError(QSchedError):
    """Weights are missing, misshapen or unreadable."""


class QuantizeError(QSchedError):
    """A quantization scheme or its result is unsound."""


class ScheduleError(QSchedError):
    """A scheduler is not linear in (x, e, z), or coefficients do not fit it."""


class PromptsError(QSchedError):
    """A prompt file is missing, empty or unreadable."""


class MetricError(QSchedError):
    """A scorer or metric is missing, unreadable or not finite."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """One line: `name` is no `what`, the nearest name that is, and all of them."""
    names = sorted(known)
    nearest = alike(name, names)
    hint = f"did you mean {nearest!r}? " if nearest else ""
    return f"unknown {what} {name!r}: {hint}known: {', '.join(names)}"


def alike(name: str, names: list[str]) -> str:
    """The one of `names` that `name` may be a slip of, or "": an ending that all of them have says nothing."""
    small = {known.lower(): known for known in names}
    shared = [letters[0] if len(set(letters)) == 1 else "" for letters in zip(*(n[::-1] for n in small), strict=False)]
    ending = "".join(shared[: [*shared, ""].index("")])[::-1] if len(names) > 1 else ""
    stems = {known.removesuffix(ending): whole for known, whole in small.items()}
    found = difflib.get_close_matches(name.lower().removesuffix(ending), stems, n=1, cutoff=0.6)
    return stems[found[0]] if found else ""
