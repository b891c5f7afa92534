"""The full-precision bundle that a quantized one is compared with: found beside it, or exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from qsched_edge.bundle.opened import OpenedBundle, open_bundle
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.errors import BundleError
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings


def beside(bundle: OpenedBundle, spec: ModelSpec) -> Path:
    """Where it is looked for and put."""
    return bundle.folder.with_name(f"{spec.recipe.name}-w32")


def full_precision(spec: ModelSpec, quantized: OpenedBundle, folder: Path, quiet: bool) -> Path:
    """A 32-bit bundle of the very weights that `quantized` was made of; exported to `folder` unless it is there."""
    if not folder.exists():
        quantized.check_sources(spec)  # before hours are spent on other weights
        plain = replace(spec, recipe=replace(spec.recipe, layers={}))
        export(plain, ExportSettings(bits=32, choices=quantized.provenance.choices), folder, quiet=quiet)
    check_reference(open_bundle(folder), quantized)
    return folder


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
