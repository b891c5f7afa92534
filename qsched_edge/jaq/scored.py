"""The terms of the loss as a judge: what a search sees, so it says how well it fitted and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qsched_edge.errors import MetricError
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.judges import Distance, Drawn, Look, Reading
from qsched_edge.jaq.settings import JudgeSource, TermSettings
from qsched_edge.jaq.terms import TERMS, picture_terms


class ScoredTerms:
    """The terms that need nothing but the picture itself."""

    distances: Mapping[str, Distance] = {}

    def __init__(self, settings: TermSettings, device: str) -> None:
        self.settings, self.judge, self.files = settings, Judge(settings, device), term_files(settings)
        self.readings = {n: reading_of(n) for n in picture_terms()}

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
    return ScoredTerms(source.terms, source.device)


def reading_of(name: str) -> Reading:
    term = TERMS[name]
    return Reading(term.label, term.short, term.more_is_better, term.form, term.signed)


def term_files(terms: TermSettings) -> frozenset[str]:
    """What the terms look through."""
    weights = Path(terms.scorer) / "open_clip_model.safetensors"
    named = [str(p.resolve()) for p in (weights, Path(terms.hps)) if p.is_file()]
    return frozenset([*named, *([terms.quality] if ":" in terms.quality else [])])
