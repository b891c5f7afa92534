"""A recipe's name, a recipe file, a diffusers folder or a hub id -> ModelSpec, with what its family does where the
recipe says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qsched_edge.checkpoint import hub, identity, single_file
from qsched_edge.checkpoint.defaults import completed, family_defaults
from qsched_edge.checkpoint.model import ModelSpec, locate, read_json, spec
from qsched_edge.checkpoint.overrides import Overrides
from qsched_edge.checkpoint.recipe_file import Recipe, read_layers, read_recipe, recipe_names, shipped_recipes, typed
from qsched_edge.checkpoint.samplers import check_scheduler, few_step_scheduler
from qsched_edge.errors import RecipeError, unknown_name

__all__ = [
    "ModelSpec",
    "Overrides",
    "Recipe",
    "inheriting",
    "locate",
    "plain_recipe",
    "read_json",
    "read_layers",
    "read_recipe",
    "recipe_names",
    "resolve",
    "shipped_recipes",
    "spec",
    "typed",
]


def resolve(model: str, overrides: Overrides = Overrides()) -> ModelSpec:  # noqa: B008 (frozen)
    """`model` is a recipe's name, a recipe file, a diffusers folder or a hub repository (OWNER/NAME[@REVISION]).

    A folder or a repository that is the checkpoint of a shipped recipe is exported by that recipe. Raises ScheduleError
    for a scheduler that no bundle holds.
    """
    found = spec(overrides.over(recipe_of(model, overrides.base)))
    check_scheduler(found.traits())
    return inheriting(found)


def recipe_of(model: str, base: str | None = None) -> Recipe:
    named, path = recipe_names(), Path(model)
    if model in named:
        return read_recipe(named[model], model)
    if path.suffix == ".toml" and path.is_file():
        return read_recipe(path)
    if path.suffix == ".safetensors" and (path.is_file() or hub.hub_id(model)):
        return recipe_of_file(str(path.resolve()) if path.is_file() else model, base)
    if path.is_dir():
        folder = path.resolve()
        return identity.recipe_of_folder(folder) or recipe_of_place(plain_recipe(folder.name, str(folder)), base)
    if known := hub.hub_id(model):
        return identity.recipe_of_repository(known) or recipe_of_place(plain_recipe(known.name, model), base)
    raise RecipeError(unknown_name("model", model, named) + "; or give a recipe file, a diffusers folder or OWNER/NAME")


def recipe_of_place(plain: Recipe, base: str | None) -> Recipe:
    """A pipeline's folder or repository as it is; one with a network alone in that network's place in its base."""
    folder = locate(plain, plain.source)
    if (folder / "model_index.json").is_file() or not (folder / "config.json").is_file():
        return plain
    config = read_json(folder / "config.json")
    network = NETWORKS.get(str(config.get("_class_name")))
    if network is None:
        return plain
    below = recipe_of(base or single_file.repository_of(kind_of(config)))
    over = replace(plain, parts={**below.parts, network: plain.source})
    return in_place_of(below, over, flow=network == "transformer")


NETWORKS = {"UNet2DConditionModel": "unet", "FluxTransformer2DModel": "transformer"}


def kind_of(config: Mapping[str, Any]) -> str:
    """What diffusers calls the kind of checkpoint that a network with this configuration belongs to."""
    if config["_class_name"] == "FluxTransformer2DModel":
        return "flux-dev" if config.get("guidance_embeds") else "flux-schnell"
    width = config.get("cross_attention_dim")
    if width not in single_file.WIDTHS:
        raise RecipeError(f"a U-Net that reads text states of {width} values belongs to no known model: give --base")
    return single_file.WIDTHS[width]


def in_place_of(below: Recipe, over: Recipe, flow: bool) -> Recipe:
    """`over`, with its parts or its file, on the checkpoint of `below`; what that says of steps is not said of it."""
    return replace(
        over, source=below.source, revision=below.revision, variant=below.variant, folder=below.folder,
        scheduler=("" if flow else few_step_scheduler(over.name)) or below.scheduler,
    )  # fmt: skip


def recipe_of_file(file: str, base: str | None) -> Recipe:
    """A single file over `base`, or over the model that diffusers takes it for a version of; what the base says of
    sampling is not said of the file."""
    single = single_file.single_file(locate(plain_recipe(file, file), file))
    below = recipe_of(base or single.base())
    over = replace(plain_recipe(single.file.stem, file), parts=below.parts, single_file=file)
    return in_place_of(below, over, flow="transformer" in single.components)


def plain_recipe(name: str, source: str) -> Recipe:
    """What can be said of a model without a recipe: all else is its family's."""
    return Recipe(name=name, title=name, source=source)


def inheriting(model: ModelSpec) -> ModelSpec:
    """The same with all that the recipe leaves to the family."""
    if not model.recipe.inherit:
        return model
    return replace(model, recipe=completed(model.recipe, family_defaults(model.traits())))
