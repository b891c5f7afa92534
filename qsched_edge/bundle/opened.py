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
from qsched_edge.bundle.write import uncalibrated
from qsched_edge.checkpoint.recipes import ModelSpec, Recipe, recipe_of, resolve, spec
from qsched_edge.errors import BundleError


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle's qsched.json, read once; no other room looks into its raw values."""

    folder: Path
    manifest: Manifest

    @cached_property
    def provenance(self) -> Provenance:
        return Provenance.of(self.manifest.raw["provenance"])

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe that the export stored; raises BundleError where an earlier version stored none."""
        stored = self.manifest.raw.get("recipe")
        if stored is None:
            raise BundleError(f"{self.folder} stores no recipe, as earlier versions did: export it again or give -m")
        return recipe_of(stored)

    @property
    def calibrations(self) -> Mapping[str, Mapping[str, Any]]:
        """The records of its calibrations, by number of steps."""
        return self.manifest.raw["calibration"]

    def model(self, option: str | None = None) -> ModelSpec:
        """The checkpoint it was made of: the `option` that was given, else by the stored recipe, whatever else goes by
        its name."""
        return resolve(option) if option else spec(self.recipe)

    def steps(self, wanted: int | None) -> int:
        """The step count asked for, or the default; raises BundleError for one there is no schedule of."""
        steps = self.manifest.default_steps if wanted is None else wanted
        if steps not in self.manifest.schedules:
            raise BundleError(f"no schedule for {steps} steps: this bundle has {sorted(self.manifest.schedules)}")
        return steps

    def uncalibrated(self) -> dict[str, Any]:
        """What its pictures depend on beside coefficients."""
        return uncalibrated(self.manifest)

    @property
    def identity(self) -> dict[str, Any]:
        """All that it says: another calibration is another identity."""
        return self.manifest.raw


def open_bundle(folder: Path) -> OpenedBundle:
    """Raises BundleError for a folder that is no bundle."""
    return OpenedBundle(folder, manifests.read(folder))
