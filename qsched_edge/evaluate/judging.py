"""Who judges an evaluation: the report's judges, and the loss's own terms beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qsched_runtime.manifest import sha256

from qsched_edge.checkpoint.recipes import Recipe
from qsched_edge.jaq.encoders import FitEncoders
from qsched_edge.jaq.judges import ROLES
from qsched_edge.jaq.panel import Panel, check_apart, located, names_of, panel_of
from qsched_edge.jaq.scored import ScoredTerms, term_files
from qsched_edge.jaq.settings import JudgeSource

TERMS_TOO = "terms"  # what a loss sees is shown beside those that it does not


def report_panel(recipe: Recipe, prompts: Sequence[str], source: JudgeSource, names: Sequence[str] = ()) -> Panel:
    """The judges called `names`, or the recipe's, as far as they are at hand; those that nobody named fetch nothing.

    Raises MetricError where one of them looks through a file that the loss sees."""
    asked = tuple(names) or names_of(recipe, ROLES[2])
    references = source.references or located(recipe, recipe.references)
    own = replace(source, references=references, offline=source.offline or not (names or recipe.report))
    found = panel_of(asked, recipe, own, prompts)
    fitted = panel_of([n for n in (TERMS_TOO,) if n not in asked], recipe, replace(own, offline=True), prompts)
    judges = {**found.judges, **fitted.judges}
    loss = term_files(source.terms).union(*(j.files for n, j in judges.items() if n == TERMS_TOO))
    loss |= FitEncoders(recipe.fit, recipe, own).files_at_hand()
    check_apart({"fit": loss, "report": Panel({n: j for n, j in judges.items() if n != TERMS_TOO}).files})
    return Panel(judges, (*found.left_out, *fitted.left_out))


def panel_identity(panel: Panel) -> dict[str, Any]:
    """All that the judges' answers depend on beside the pictures."""
    files = {file: sha256(Path(file)) if Path(file).is_file() else "" for file in sorted(panel.files)}
    fitted = panel.judges.get(TERMS_TOO)
    terms = asdict(fitted.settings) if isinstance(fitted, ScoredTerms) else None
    return {"judges": list(panel.judges), "files": files, "terms": terms}
