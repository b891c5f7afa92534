"""Who judges an evaluation: the report's judges, and the loss's own terms beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qsched_runtime.manifest import sha256

from qsched_edge.checkpoint.recipes import Recipe
from qsched_edge.jaq.judges import ROLES
from qsched_edge.jaq.panel import Panel, check_apart, names_of, panel_of
from qsched_edge.jaq.scored import ScoredTerms, term_files
from qsched_edge.jaq.settings import JudgeSource, TermSettings

TERMS_TOO = "terms"  # what a loss sees is shown beside those that it does not


def report_panel(
    recipe: Recipe, terms: TermSettings, device: str, prompts: Sequence[str], names: Sequence[str] = ()
) -> Panel:
    """The judges called `names`, or the recipe's, as far as they are at hand; raises MetricError where one of them
    looks through a file that the loss sees."""
    asked = tuple(names) or names_of(recipe, ROLES[2])
    source = JudgeSource(device=device, terms=terms)
    found = panel_of(asked, recipe, source, prompts)
    check_apart({"fit": term_files(terms), "report": found.files})
    if TERMS_TOO in asked:
        return found
    fitted = panel_of((TERMS_TOO,), recipe, source, prompts)
    return Panel({**found.judges, **fitted.judges}, (*found.left_out, *fitted.left_out))


def panel_identity(panel: Panel) -> dict[str, Any]:
    """All that the judges' answers depend on beside the pictures."""
    files = {file: sha256(Path(file)) if Path(file).is_file() else "" for file in sorted(panel.files)}
    fitted = panel.judges.get(TERMS_TOO)
    terms = asdict(fitted.settings) if isinstance(fitted, ScoredTerms) else None
    return {"judges": list(panel.judges), "files": files, "terms": terms}
