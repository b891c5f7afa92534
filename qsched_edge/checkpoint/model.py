"""A recipe with the diffusers folder it stands for: classes, configurations and folders of its components."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qsched_edge._shelf import shelf
from qsched_edge.checkpoint import hub, single_file, stock
from qsched_edge.checkpoint.defaults import Traits
from qsched_edge.checkpoint.recipe_file import Recipe
from qsched_edge.checkpoint.schedule import stock_config
from qsched_edge.checkpoint.weights import Weights, weight_files
from qsched_edge.errors import RecipeError

# what diffusers puts into the names of classes that draw with the same components
VARIATION = re.compile(r"Img2Img|Inpaint|PAG|SAG")
LEVELS = 4  # of the autoencoders that tiny ones were trained for


@dataclass(frozen=True)
class ModelSpec:
    """A recipe with the diffusers folder it stands for and that folder's model_index.json."""

    recipe: Recipe
    folder: Path
    index: Mapping[str, Any]

    @property
    def pipeline(self) -> str:
        """The text-to-image class of diffusers that has the same components."""
        return VARIATION.sub("", str(self.index["_class_name"]))

    @property
    def guidance(self) -> float:
        """The recipe's guidance scale, which `resolve` has filled in."""
        return self.recipe.guidance or 0.0

    def traits(self) -> Traits:
        """What the family's defaults are chosen by; a file that is missing decides nothing here."""
        said = self.index.get("scheduler")
        scheduler, backbone = self.small_json("scheduler", "scheduler_config.json"), self.backbone_config()
        spacing = self.recipe.scheduler_settings.get("timestep_spacing", scheduler.get("timestep_spacing", ""))
        vae = self.small_json("vae")
        factor = vae.get("scaling_factor") or 0.18215  # AutoencoderKL's default
        return Traits(
            self.pipeline,
            self.recipe.scheduler or str(said[1] if isinstance(said, list) and len(said) > 1 else ""),
            str(spacing),
            bool(backbone.get("time_cond_proj_dim") or backbone.get("guidance_embeds")),
            (vae.get("latent_channels", 4), factor) if len(vae.get("block_out_channels", ())) == LEVELS else (0, 0.0),
            f"{self.recipe.name} {self.recipe.source} {self.recipe.single_file} {self.recipe.lora} {self.recipe.parts}",
            bool(self.index.get("is_distilled")),
        )

    def backbone_config(self) -> dict[str, Any]:
        return self.small_json("unet") or self.small_json("transformer")

    def small_json(self, component: str, name: str = "config.json") -> dict[str, Any]:
        """A component's file; {} where the model has none, which whoever needs it says."""
        if component not in self.index:
            return {}
        file = self.described_in(component) / name
        return read_json(file) if file.is_file() else {}

    def class_of(self, component: str) -> str:
        """The component's class, as model_index.json names it."""
        match self.index.get(component):
            case [_, str() as name]:
                return name
            case other:
                raise RecipeError(f"{self.folder}: its model_index.json names no {component} (it says {other!r})")

    def config(self, component: str) -> dict[str, Any]:
        """A model's configuration, with all its class's defaults and the class's name (`_class_name`)."""
        return self.read_config(self.part(component), self.class_of(component))

    def written_by(self, component: str) -> tuple[int, ...]:
        """The diffusers version that wrote the configuration: (0, 6, 0); (1,) where it does not say."""
        version = required_json(self.part(component) / "config.json").get("_diffusers_version", "1")
        return tuple(int(number) for number in re.findall(r"\d+", str(version))[:3])

    def part(self, component: str) -> Path:
        """The component's folder: the pipeline's own, or the one the recipe puts in its place."""
        if component == "vae" and self.in_single_file("vae"):
            return single_file.unpacked_vae(self.checkpoint(), self.folder / "vae")
        return self.described_in(component)

    def described_in(self, component: str) -> Path:
        """The folder of its configuration, wherever its weights are."""
        other = self.recipe.parts.get(component)
        return self.locate(other) if other else self.folder / component

    def checkpoint(self) -> single_file.SingleFile:
        """The recipe's file in its authors' layout; only where it names one."""
        return single_file.single_file(self.locate(self.recipe.single_file))

    def in_single_file(self, component: str) -> bool:
        """Are the component's weights in the recipe's single file? What the file lacks is the folder's."""
        named = self.recipe.single_file and component not in self.recipe.parts
        return bool(named) and component in self.checkpoint().components

    def weight_files(self, component: str, folder: Path) -> list[Path]:
        """The files that the weights of a component with the configuration in `folder` are in."""
        if folder == self.folder / component and self.in_single_file(component):
            return [self.checkpoint().file]
        return weight_files(folder, self.recipe.variant)

    def weights(
        self,
        component: str,
        folder: Path,
        prefixes: Sequence[str] = (),
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> Weights:
        """Those weights under diffusers' names, as they are without a LoRA."""
        if folder == self.folder / component and self.in_single_file(component):
            return self.checkpoint().weights(component, self.config(component), prefixes, aliases)
        return Weights(weight_files(folder, self.recipe.variant), prefixes, aliases)

    @staticmethod
    def read_config(folder: Path, class_name: str) -> dict[str, Any]:
        return {**stock.with_defaults(class_name, required_json(folder / "config.json")), "_class_name": class_name}

    def scheduler_config(self) -> dict[str, Any]:
        """The scheduler's configuration, as the stock pipeline loads it and the recipe overrides it."""
        recipe, file = self.recipe, self.part("scheduler") / "scheduler_config.json"
        config = {**required_json(file), "_class_name": self.class_of("scheduler")}
        return stock_config(self.pipeline, config, recipe.scheduler, recipe.scheduler_settings)

    def locate(self, source: str) -> Path:
        """A folder or file that the recipe names: a path beside it, or a repository of the model hub."""
        return locate(self.recipe, source)

    def lora_file(self) -> Path | None:
        """The recipe's LoRA, if it has one; RecipeError for a folder or a repository in a file's place."""
        named = self.recipe.lora
        if not named:
            return None
        path, repository = self.recipe.path(named), hub.hub_id(named)
        if path.is_dir() or (not path.exists() and repository and not repository.file):
            raise RecipeError(f"{self.recipe.name}: lora {named!r} is a folder: name the safetensors file in it")
        return self.locate(named)


def required_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"{path.parent} has no {path.name}: the diffusers folder is incomplete")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read ({error}): the folder is damaged") from error
    if not isinstance(found, dict):
        raise RecipeError(f"{path} holds a {type(found).__name__}, not an object: the folder is damaged")
    return found


def spec(recipe: Recipe) -> ModelSpec:
    folder = locate(recipe, recipe.source)
    index = folder / "model_index.json"
    if not index.is_file():
        raise RecipeError(f"{folder} is no diffusers folder: it has no model_index.json")
    found = read_json(index)
    if not isinstance(found.get("_class_name"), str):
        raise RecipeError(f"{index} names no pipeline class (_class_name): the folder is damaged")
    return ModelSpec(recipe, folder, found)


def locate(recipe: Recipe, source: str) -> Path:
    """A path relative to the recipe where there is one; else a hub repository, or a file in one.

    A repository has the revision it is named with (OWNER/NAME@REVISION); the recipe's `revision` is its source's."""
    path = recipe.path(source)
    if path.exists():
        return path
    known = hub.hub_id(source)
    if known is None:
        embedded = source == recipe.source and recipe.folder == shelf("export").resolve()
        raise RecipeError(
            f"{recipe.name}: {path} does not exist"
            + (
                "; the embedded model is in the repository, not in the wheel: give -m CHECKOUT/export/emoji.toml"
                if embedded
                else f", and {source!r} is no hub id (OWNER/NAME[@REVISION][/FILE])"
            )
        )
    if source == recipe.source and recipe.revision:
        if known.revision not in ("", recipe.revision):
            raise RecipeError(f"{recipe.name}: source names revision {known.revision} and revision {recipe.revision}")
        known = replace(known, revision=recipe.revision)
    if source != recipe.source:
        return hub.fetch(known, recipe.variant, whole=True)
    return hub.fetch(known, recipe.variant, without=elsewhere(recipe))


def elsewhere(recipe: Recipe) -> tuple[str, ...]:
    """The components whose weights are not the source's."""
    named = recipe.single_file
    inside = single_file.single_file(locate(recipe, named)).components if named else ()
    return (*recipe.parts, *inside)
