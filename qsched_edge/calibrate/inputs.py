"""What a calibration reads, checked: prompts and their noise, the reference, the judges, and what identifies them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from qsched_runtime import manifest as manifests

from qsched_edge import noise
from qsched_edge.bundle import write as bundles
from qsched_edge.bundle.opened import OpenedBundle, open_bundle
from qsched_edge.calibrate.jobs import Draws
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import Recipe
from qsched_edge.errors import BundleError, PromptsError, QSchedError
from qsched_edge.jaq.judge import Judge
from qsched_edge.jaq.settings import TermSettings
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
    fit, held = fit_set.first(settings.fit_prompts), heldout_set.first(settings.heldout_prompts)
    start, half = noise.deciding(settings.seed), len(held) // 2
    return {
        "fit": Draws(fit, noise.fitting(settings.seed)),
        "heldout": Draws(held, start),
        "choosing": Draws(held[:half], start),
        "deciding": Draws(held[half:], start + half),
    }


def check_reference(reference: OpenedBundle, quantized: OpenedBundle) -> None:
    """Raises BundleError unless `reference` is a 32-bit bundle of the same weights."""
    found, wanted = reference.provenance, quantized.provenance
    if found.bits != 32 or found.sources != wanted.sources:
        raise BundleError(
            f"{reference.folder} is no 32-bit bundle of this model's weights: remove it or name another --reference"
        )


def uncalibrated_at(folder: Path | None) -> dict[str, Any] | None:
    """What the pictures of the bundle there depend on, beside coefficients."""
    return open_bundle(folder).uncalibrated() if folder else None


def terms_of(recipe: Recipe, settings: CalibrationSettings) -> TermSettings:
    """The recipe's metrics, unless the settings name others."""
    return TermSettings(
        str(recipe.path(recipe.scorer)) if recipe.scorer else "", settings.text_image or recipe.text_image,
        settings.quality or recipe.quality, recipe.quality_prompts, str(recipe.path(recipe.hps)) if recipe.hps else "",
    )  # fmt: skip


def judge_of(recipe: Recipe) -> Judge:
    return Judge(terms_of(recipe, CalibrationSettings()))


def judge_identity(terms: TermSettings) -> dict[str, Any]:
    """All that both terms depend on: their settings and every file they look through."""
    hps = Path(terms.hps)
    return {
        "terms": asdict(terms),
        "scorer": bundles.list_files(Path(terms.scorer)) if terms.scorer else [],
        "hps": manifests.sha256(hps) if hps.is_file() else "",
    }


def scorer_hash(terms: TermSettings) -> str:
    """SHA-256 of the open_clip weights, empty where no term looks through them."""
    path = Path(terms.scorer) / "open_clip_model.safetensors"
    return manifests.sha256(path) if terms.scorer and path.is_file() else ""
