"""An opened bundle: its manifest, where it comes from, the recipe it stores, and its calibrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from qsched_runtime import manifest as manifests
from qsched_runtime.manifest import Manifest

from qsched_edge.bundle.card import Provenance
from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.bundle.sources import recipe_from_json, source_hashes
from qsched_edge.bundle.write import stock_table, uncalibrated
from qsched_edge.checkpoint.recipes import ModelSpec, Recipe, resolve, spec
from qsched_edge.errors import BundleError, RecipeError
from qsched_edge.pipelines import layout_of


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle's qsched.json, read once; no other room looks into its raw values."""

    folder: Path
    manifest: Manifest
    provenance: Provenance

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe that the export stored; raises BundleError where an earlier version stored none."""
        stored = self.manifest.raw.get("recipe")
        if stored is None:
            raise BundleError(f"{self.folder} stores no recipe, as earlier versions did: export it again, or give -m")
        return recipe_from_json(stored, self.folder / manifests.NAME)

    @property
    def calibrations(self) -> Mapping[int, Mapping[str, Any]]:
        """The records of its calibrations, by number of steps."""
        return {int(steps): record for steps, record in self.manifest.raw["calibration"].items()}

    def model(self, option: str | None = None) -> ModelSpec:
        """The checkpoint it was made of: the `option` that was given, else by the stored recipe, whatever else goes by
        its name. Raises RecipeError where it is not found."""
        if option:
            return resolve(option)
        recipe = self.recipe
        try:
            return spec(recipe)
        except RecipeError as error:
            where = f"the checkpoint {recipe.source!r}, which {self.folder} was made of, cannot be used"
            raise RecipeError(f"{where} ({error}): give -m") from error

    def check_sources(self, model: ModelSpec) -> None:
        """Raise BundleError unless the weights of `model` are those the bundle was made of; reads all of them."""
        found, wanted = source_hashes(model, layout_of(model, self.provenance.choices)), self.provenance.sources
        other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        if other:
            raise BundleError(
                f"{self.folder} was not made of the weights of {model.folder} ({other[0]} differs): "
                "give -m, the checkpoint it was made of"
            )

    def steps(self, wanted: int | None = None) -> int:
        """The step count asked for, or the default; raises BundleError for one there is no schedule of."""
        steps = self.manifest.default_steps if wanted is None else wanted
        if steps not in self.manifest.schedules:
            raise BundleError(f"no schedule for {steps} steps: this bundle has {sorted(self.manifest.schedules)}")
        return steps

    def stock(self, steps: int) -> LearnedSchedule:
        """The stock scheduler's schedule of that many steps, nothing learned."""
        return LearnedSchedule.stock(stock_table(self.manifest, steps))

    def learned(self, steps: int) -> LearnedSchedule:
        """The schedule of that many steps as it ships."""
        return LearnedSchedule(self.manifest.schedules[steps], self.manifest.coefficients[steps])

    def uncalibrated(self) -> dict[str, Any]:
        """What its pictures depend on beside coefficients."""
        return uncalibrated(self.manifest)

    @property
    def identity(self) -> dict[str, Any]:
        """All that it says: another calibration is another identity."""
        return self.manifest.raw


def open_bundle(folder: Path) -> OpenedBundle:
    """Raises BundleError with the reason if `folder` is no bundle, or one that this project did not export."""
    if folder.is_file():
        raise BundleError(f"{folder} is a file: unpack it first (qsched-edge unpack {folder.name} -o FOLDER)")
    manifest = manifests.read(folder)
    return OpenedBundle(folder, manifest, Provenance.of(manifest.raw.get("provenance", {})))
