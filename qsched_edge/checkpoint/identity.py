"""Is a folder or a repository the checkpoint of a shipped recipe? By source and revision, or by its files' hashes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qsched_runtime.manifest import sha256

from qsched_edge.checkpoint.hub import HubId, hub_id
from qsched_edge.checkpoint.recipe_file import Recipe, shipped_recipes


def recipe_of_repository(asked: HubId) -> Recipe | None:
    """The shipped recipe of exactly this repository; one without a revision means the recipe's."""
    for recipe in plain_ones():
        known = hub_id(recipe.source)
        if known and known.repository == asked.repository and asked.revision in ("", recipe.revision):
            return recipe
    return None


def recipe_of_folder(folder: Path) -> Recipe | None:
    """The shipped recipe whose checkpoint lies in `folder`, reading it from there."""
    for recipe in plain_ones():
        source = recipe.path(recipe.source)
        if source == folder:
            return recipe
        if holds_revision(folder, recipe) or same_weights(folder, source):
            return replace(recipe, source=str(folder))
    return None


def plain_ones() -> list[Recipe]:
    """The recipes of a checkpoint as it was published, with no LoRA on it and nothing in a component's place."""
    return [r for r in shipped_recipes().values() if not r.lora and not r.parts]


def holds_revision(folder: Path, recipe: Recipe) -> bool:
    """Does the hub's cache, or `hf download --local-dir`, say that the folder is the recipe's commit?"""
    known = hub_id(recipe.source)
    if known is None or not recipe.revision:
        return False
    cached = f"models--{known.repository.replace('/', '--')}/snapshots/{recipe.revision}"
    note = folder / ".cache/huggingface/download/model_index.json.metadata"
    return folder.as_posix().endswith(f"/{cached}") or (
        note.is_file() and note.read_text("utf-8").split("\n")[0].strip() == recipe.revision
    )


def same_weights(folder: Path, source: Path) -> bool:
    """Are all weights in `folder` those in `source`, by their hashes? Reads them only where their sizes agree."""
    ours, theirs = weights_in(folder), weights_in(source)
    if not ours or sizes(folder, ours) != sizes(source, theirs):
        return False
    return all(sha256(folder / name) == sha256(source / name) for name in ours)


def weights_in(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.glob("*/*.safetensors"))


def sizes(folder: Path, names: list[str]) -> list[tuple[str, int]]:
    return [(name, (folder / name).stat().st_size) for name in names]
