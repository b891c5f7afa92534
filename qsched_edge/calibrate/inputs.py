"""What a calibration reads, checked: prompts and their noise, the reference, the judges, and what identifies them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qsched_runtime import manifest as manifests

from qsched_edge import noise
from qsched_edge.calibrate.draws import Draws
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import Recipe
from qsched_edge.errors import PromptsError, QSchedError
from qsched_edge.jaq.encoders import DEFAULT, FitEncoders
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.panel import located
from qsched_edge.jaq.scored import term_files
from qsched_edge.jaq.scorers import at_hand, usable, with_defaults
from qsched_edge.jaq.settings import JudgeSource, TermSettings
from qsched_edge.jaq.terms import TERMS, losses
from qsched_edge.prompts import PromptSet, read_prompts


def recipe_path(recipe: Recipe, name: str, option: str = "") -> Path:
    """The file that the recipe names as `name`; QSchedError that says which `option` (--NAME) gives another."""
    value = getattr(recipe, name)
    if not value:
        raise QSchedError(f"recipe {recipe.name} names no {name}: give {option or f'--{name}'}")
    return recipe.path(value)


def prompt_sets(recipe: Recipe, prompts: Path | None, heldout: Path | None) -> tuple[PromptSet, PromptSet]:
    """To fit on and to decide by: the files given, or the recipe's. Raises PromptsError if they are the same."""
    fit = read_prompts(prompts or recipe_path(recipe, "prompts"))
    held = read_prompts(heldout or recipe_path(recipe, "heldout"))
    if fit.prompts == held.prompts:
        raise PromptsError(
            f"{fit.path} and {held.path} hold the same prompts: decide by prompts that were not fitted on"
        )
    return fit, held


def draws_of(settings: CalibrationSettings, fit_set: PromptSet, heldout_set: PromptSet) -> dict[str, Draws]:
    """The prompts and noise of fitting, and of the two halves that choose and decide."""
    fit, held = fit_set.first(settings.fit_prompts), heldout_set.last(settings.heldout_prompts)
    start, half = noise.deciding(settings.seed), len(held) // 2
    return {
        "fit": Draws(fit, noise.fitting(settings.seed)),
        "heldout": Draws(held, start),
        "choosing": Draws(held[:half], start),
        "deciding": Draws(held[half:], start + half),
    }


def terms_of(recipe: Recipe, settings: CalibrationSettings, pipeline: str = "") -> TermSettings:
    """The settings' metrics, else the recipe's, else those of the `pipeline` class."""
    named = TermSettings(
        settings.scorer or located(recipe, recipe.scorer), settings.text_image or recipe.text_image,
        settings.quality or recipe.quality, recipe.quality_prompts, located(recipe, recipe.hps),
    )  # fmt: skip
    return with_defaults(named, pipeline)


def found_terms(recipe: Recipe, settings: CalibrationSettings, pipeline: str) -> TermSettings:
    """The same with every model at hand, fetched if need be; a loss that compares with full precision needs none. A
    loss over sets looks through its encoders alone, so that no term is measured."""
    if settings.over_sets:
        return replace(terms_of(recipe, settings, pipeline), text_image="", quality="")
    needed = not all(TERMS[name].compares for name in losses()[settings.loss])
    return usable(terms_of(recipe, settings, pipeline), settings.offline, needed)


def encoders_of(recipe: Recipe, settings: CalibrationSettings, terms: TermSettings) -> FitEncoders | None:
    """What a loss over sets looks through: the settings' encoders and reference pictures, else the recipe's."""
    if not settings.over_sets:
        return None
    references = settings.references or (recipe.path(recipe.fit_references) if recipe.fit_references else "")
    source = JudgeSource(
        device=settings.place.device, terms=terms, references=str(references), offline=settings.offline
    )
    return FitEncoders(settings.fit or recipe.fit or DEFAULT, recipe, source)


def with_loss(settings: CalibrationSettings, recipe: Recipe) -> CalibrationSettings:
    """With the recipe's loss, else JAQ, where the settings name none."""
    return settings if settings.loss else replace(settings, loss=recipe.loss or "jaq")


def judge_of(recipe: Recipe) -> Judge:
    return Judge(at_hand(terms_of(recipe, CalibrationSettings()), offline=True))


def judge_identity(terms: TermSettings) -> dict[str, Any]:
    """All that the terms depend on: their settings and every file they look through."""
    named = {name: value for name, value in asdict(terms).items() if name != "found"}
    files = {name: manifests.sha256(Path(name)) for name in sorted(term_files(terms)) if Path(name).is_file()}
    return {"terms": named, "files": files}


def scorer_hash(terms: TermSettings) -> str:
    """SHA-256 of the weights that text-image similarity looks through, empty where there are none."""
    text_image = replace(terms, quality="")
    return next((manifests.sha256(Path(f)) for f in term_files(text_image) if Path(f).is_file()), "")
