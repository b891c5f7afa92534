"""The terms of the loss as a judge: what a search sees, so it says how well it fitted and decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qsched_edge.errors import MetricError
from qsched_edge.jaq.fetching import OPEN_CLIP, TRANSFORMERS
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.judges import Distance, Drawn, Look, Reading
from qsched_edge.jaq.scorers import at_hand, models_of
from qsched_edge.jaq.settings import JudgeSource, TermSettings
from qsched_edge.jaq.terms import LIBRARIES, TERMS, picture_terms

WEIGHTS = (OPEN_CLIP[1], TRANSFORMERS[1])


class ScoredTerms:
    """The terms that need nothing but the picture itself."""

    distances: Mapping[str, Distance] = {}

    def __init__(self, settings: TermSettings, device: str) -> None:
        self.settings, self.judge, self.files = settings, Judge(settings, device), term_files(settings)
        self.readings = {n: reading_of(n) for n in picture_terms() if n in self.judge.measures}

    def look(self, drawn: Drawn) -> Look:
        """Raises MetricError for a term that is not finite."""
        assert drawn.latents is not None
        scores = self.judge.of_unit(drawn.images, drawn.prompts, drawn.latents)
        if not scores.finite:
            raise MetricError("a JAQ term is not finite: the pictures or the scorer are broken")
        return Look({name: scores[name] for name in self.readings})

    def check(self, prompts: Sequence[str]) -> None:
        """Any will do."""


def scored_terms(source: JudgeSource) -> ScoredTerms:
    return ScoredTerms(at_hand(source.terms, source.offline), source.device)


def reading_of(name: str) -> Reading:
    term = TERMS[name]
    return Reading(term.label, term.short, term.more_is_better, term.form, term.signed)


def term_files(terms: TermSettings) -> frozenset[str]:
    """What the terms look through: files of weights by their resolved paths, "pyiqa:NAME", and the names of models that
    nobody has found yet."""
    return frozenset(name for kind, model in models_of(terms) for name in files_of(kind, model, terms))


def files_of(kind: str, model: str, terms: TermSettings) -> Iterator[str]:
    if kind in LIBRARIES:
        yield f"{kind}:{model}"
    elif model:
        path = terms.path(model)
        weights = [path / name for name in WEIGHTS if (path / name).is_file()][:1] if path.is_dir() else [path]
        yield from (str(file.resolve()) if file.is_file() else model for file in weights)
