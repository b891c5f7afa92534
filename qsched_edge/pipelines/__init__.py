"""Diffusers pipeline classes -> the components, wiring and sizes of a bundle; one family per file."""

from __future__ import annotations

from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.choices import Choices
from qsched_edge.errors import RecipeError, unknown_name
from qsched_edge.lookup import lookup
from qsched_edge.pipelines.layout import ComponentPlan, Layout

__all__ = ["PIPELINES", "Choices", "ComponentPlan", "Layout", "layout_of"]

PIPELINES = {
    "LatentConsistencyModelPipeline": "qsched_edge.pipelines.stable_diffusion:layout",
    "StableDiffusionPipeline": "qsched_edge.pipelines.stable_diffusion:layout",
    "StableDiffusionXLPipeline": "qsched_edge.pipelines.stable_diffusion_xl:layout",
    "StableDiffusion3Pipeline": "qsched_edge.pipelines.stable_diffusion_3:layout",
    "FluxPipeline": "qsched_edge.pipelines.flux:layout",
    "Flux2KleinPipeline": "qsched_edge.pipelines.flux2_klein:layout",
    "ZImagePipeline": "qsched_edge.pipelines.z_image:layout",
}


def layout_of(spec: ModelSpec, choices: Choices = Choices()) -> Layout:  # noqa: B008 (frozen)
    """The bundle layout of a diffusers folder; a class nobody wrote a layout for is refused by name."""
    if spec.pipeline not in PIPELINES:
        raise RecipeError(f"{spec.folder}: {unknown_name('pipeline class', spec.pipeline, PIPELINES)}")
    return lookup(PIPELINES[spec.pipeline])(spec, choices)
