"""What a recipe says of a model, held against the model's layout and its files' headers: no weight is read."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch

from qsched_edge.checkpoint.defaults import KEEP
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.errors import RecipeError, unknown_name
from qsched_edge.pipelines import ComponentPlan, Layout

WILDCARD = re.compile(r"[*?\[]")


def check_recipe(spec: ModelSpec, full: Layout) -> None:
    """Raise RecipeError for what nothing in `full` has, or for a size that no latents have.

    `full` is the layout with the encoder: one recipe serves exports with it and without.
    """
    recipe, components = spec.recipe, [c.name for c in full.components]
    parts = {"scheduler", *full.tokenizers, *(c.component for c in full.components)}
    for table, names, known in (
        ("parts", recipe.parts, parts),
        ("precision", recipe.precision, components),
        ("keep", fixed_components(recipe.keep), components),
        ("layers", fixed_components(recipe.layers), components),
    ):
        for name in names:
            if name not in known:
                raise RecipeError(f"recipe {recipe.name}, [{table}]: {unknown_name('component', name, known)}")
    check_size(spec, full)
    check_patterns(spec, full)


def fixed_components(patterns: Iterable[str]) -> list[str]:
    """The components that patterns "component.weight" name, as far as they name one without wildcards."""
    return [head for head in (p.partition(".")[0] for p in patterns) if not WILDCARD.search(head)]


def check_size(spec: ModelSpec, full: Layout) -> None:
    unit = full.latents.pixels_per_latent * full.latents.multiple_of
    for name, pixels in (("height", spec.recipe.height), ("width", spec.recipe.width)):
        if pixels % unit:
            raise RecipeError(f"recipe {spec.recipe.name}: {name} {pixels} does not fit: use a multiple of {unit}")


def check_patterns(spec: ModelSpec, full: Layout) -> None:
    """Every pattern of `keep` must match a weight; one for the autoencoder may mean the tiny or an older one, whose
    weights have other names: that is said, and no error."""
    autoencoders = [c.name for c in full.components if c.component == "vae"]
    weights = [f"{plan.name}.{name}" for plan in full.components for name in weight_names(spec, plan)]
    for pattern in sorted(
        set(spec.recipe.keep) - set(KEEP.get(spec.pipeline, ()))
    ):  # a family has more than one network
        if not any(fnmatch(weight, pattern) for weight in weights):
            line = f"recipe {spec.recipe.name}, [keep]: {pattern!r} matches no weight"
            if pattern.partition(".")[0] not in autoencoders:
                raise RecipeError(f"{line}: write component.weight, such as 'unet.conv_in.*'")
            print(f"{line} of this autoencoder", file=sys.stderr)


def weight_names(spec: ModelSpec, plan: ComponentPlan) -> Iterator[str]:
    """The names in the headers of the component's files, without the prefixes that the graph's weights lack."""
    yield from plan.aliases
    for name in spec.weights(plan.component, plan.source):
        yield name
        yield from (name.removeprefix(prefix) for prefix in plan.prefixes if name.startswith(prefix))
