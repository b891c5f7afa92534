"""The judges of a role that are at hand, and what they say of a set of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qsched_edge.checkpoint.recipes import Recipe
from qsched_edge.errors import MetricError, MissingExtraError, RecipeError, unknown_name
from qsched_edge.intervals import Interval, percentiles, resamples
from qsched_edge.jaq.judges import JUDGES, Drawn, Look, PictureJudge, Reading
from qsched_edge.jaq.settings import JudgeSource
from qsched_edge.lookup import lookup

Resampled = Mapping[str, np.ndarray]  # each measure on all prompts, then on resamples of them: float64 [1 + resamples]


@dataclass(frozen=True)
class Panel:
    """Judges by the name they were asked for, and a line for each that was left out."""

    judges: Mapping[str, PictureJudge]
    left_out: tuple[str, ...] = ()

    @property
    def readings(self) -> dict[str, Reading]:
        """Of every measure by name, single pictures' first."""
        found: dict[str, Reading] = {}
        for judge in self.judges.values():
            found |= {**judge.readings, **{name: d.reading for name, d in judge.distances.items()}}
        return found

    @property
    def files(self) -> frozenset[str]:
        return frozenset().union(*(judge.files for judge in self.judges.values()))

    def look(self, drawn: Drawn) -> dict[str, Look]:
        """What each judge says of a batch, by its name."""
        return {name: judge.look(drawn) for name, judge in self.judges.items()}

    def sampled(
        self, looks: Mapping[str, Look], prompts: int, beside: Mapping[str, Look] | None = None, number: int = 1000
    ) -> Resampled:
        """Every measure on all prompts and on `number` resamples of them, the same for all measures and all calls, so
        that differences of two calls are paired. Pictures stand prompt by prompt, each with all its noises; `beside`
        is what was said of full precision's."""
        rows = np.concatenate([np.arange(prompts)[None], resamples(prompts, 0, number)])
        found: dict[str, np.ndarray] = {}
        for name, judge in self.judges.items():
            for measure, values in looks[name].values.items():
                found[measure] = values.reshape(prompts, -1).mean(axis=1)[rows].mean(axis=1)
            features = by_prompt(looks[name], prompts)
            target = by_prompt(beside[name], prompts) if beside else None
            for measure, distance in judge.distances.items():
                if features is not None and not (distance.needs_beside and target is None) and prompts > 1:
                    found[measure] = distance.resampled(features, target, rows)
        return found

    def better(self, after: Resampled, before: Resampled, together: bool = False) -> dict[str, Interval]:
        """The paired gain of every measure that both have, with its 95 % interval, or with one that all of them hold
        `together`: above zero is better, whichever way the measure itself goes."""
        readings, gains = self.readings, {}
        both = [name for name in after if name in before]
        for name in both:
            gain = (after[name] - before[name]) * (1 if readings[name].more_is_better else -1)
            gains[name] = percentiles(gain[0], gain[1:], tests=len(both) if together else 1)
        return gains


def by_prompt(look: Look, prompts: int) -> np.ndarray | None:
    """Features [N, D] -> [prompts, N / prompts, D]."""
    return None if look.features is None else look.features.reshape(prompts, -1, look.features.shape[-1])


def together(parts: Sequence[Mapping[str, Look]]) -> dict[str, Look]:
    """What a panel said of several batches, as of one."""
    return {name: one_look([part[name] for part in parts]) for name in parts[0]}


def one_look(parts: Sequence[Look]) -> Look:
    values = {m: np.concatenate([p.values[m] for p in parts]) for m in parts[0].values}
    features = [p.features for p in parts if p.features is not None]
    return Look(values, np.concatenate(features) if features else None)


def panel_of(names: Iterable[str], recipe: Recipe, source: JudgeSource, prompts: Sequence[str] = ()) -> Panel:
    """The judges that `names` (KIND or KIND:MODEL, a path as the recipe writes it) ask for; those whose model is not
    at hand, or that have nothing to say of `prompts`, are left out with a line that says why. An unknown kind is an
    error."""
    found: dict[str, PictureJudge] = {}
    left_out = []
    for name in dict.fromkeys(names):
        kind, _, what = name.partition(":")
        if kind not in JUDGES:
            raise MetricError(unknown_name("judge", kind, JUDGES))
        try:
            judge: PictureJudge = lookup(JUDGES[kind])(replace(source, what=located(recipe, what)))
            judge.check(prompts)
        except (MetricError, MissingExtraError, RecipeError) as error:
            left_out.append(f"{name}: left out ({error})")
        else:
            found[name] = judge
    check_names(found)
    return Panel(found, tuple(left_out))


def located(recipe: Recipe, what: str) -> str:
    """A path beside the recipe, if there is one; else the name as it is."""
    path = recipe.path(what)
    return str(path) if what and path.exists() else what


def check_names(judges: Mapping[str, PictureJudge]) -> None:
    """Raises MetricError if two judges call a measure by one name."""
    seen: dict[str, str] = {}
    for name, judge in judges.items():
        for measure in (*judge.readings, *judge.distances):
            if measure in seen:
                raise MetricError(f"judges {seen[measure]} and {name} both measure {measure}: name one of them")
            seen[measure] = name


def check_apart(roles: Mapping[str, frozenset[str]]) -> None:
    """Raises MetricError where two roles look through one file: what is fitted to must not decide or report."""
    names = list(roles)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if both := sorted(roles[first] & roles[second]):
                raise MetricError(f"{first} and {second} look through the same file, {both[0]}: name other judges")


def names_of(recipe: Recipe, role: str) -> tuple[str, ...]:
    """The judges of the role "gate" or "report": the recipe's, or by default what needs nothing and what the recipe has
    at hand."""
    named: tuple[str, ...] = {"gate": recipe.gate, "report": recipe.report}[role]
    if named:
        return named
    own = (f"concepts:{recipe.evaluator}",) if recipe.evaluator and role == "report" else ()
    return ("paired", *own)
