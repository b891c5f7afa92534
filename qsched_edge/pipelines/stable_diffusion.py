"""StableDiffusionPipeline and LatentConsistencyModelPipeline: one CLIP text encoder, a U-Net, a VAE."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from qsched_runtime.manifest import Guidance

from qsched_edge.capture import autoencoder, unet
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.checkpoint.schedule import Sampling
from qsched_edge.choices import Choices
from qsched_edge.pipelines.layout import ComponentPlan, Layout
from qsched_edge.pipelines.parts import autoencoder_plans, check_classes, clip_plan, latent_spec

CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": autoencoder.CLASSES,
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
DEFAULT_SIZE = 64  # latents: StableDiffusionPipeline's for networks of diffusers before 0.9 that say less


def layout(spec: ModelSpec, choices: Choices) -> Layout:
    check_classes(spec, CLASSES)
    config, text = spec.config("unet"), clip_plan(spec, "text_encoder", "tokenizer")
    length = spec.config("text_encoder")["max_position_embeddings"]
    size, condition = default_size(spec, config), config["time_cond_proj_dim"]
    inputs = {
        "sample": "latents",
        "timestep": "timestep",
        "encoder_hidden_states": {"outputs": ["text_encoder.last_hidden_state"]},
        **({"timestep_cond": {"guidance_embedding": condition}} if condition else {}),
    }
    backbone = ComponentPlan("unet", "unet", spec.part("unet"), partial(unet.capture_unet, config, length), inputs)
    return Layout(
        components=(text, backbone, *autoencoder_plans(spec, choices)),
        backbone="unet",
        decoder="vae_decoder",
        encoder="vae_encoder" if choices.encoder else None,
        tokenizers=("tokenizer",),
        latents=latent_spec(spec, choices, config["in_channels"], size, unet.multiple_of(config), 0),
        guidance=Guidance("embedded" if condition else "classifier-free", spec.guidance),
        sampling=Sampling(eta=spec.recipe.eta),
    )


def default_size(spec: ModelSpec, config: Mapping[str, Any]) -> int | list[int]:
    """Latents of the default picture; early files of SD1 say 32, which StableDiffusionPipeline does not believe."""
    size = config["sample_size"] or DEFAULT_SIZE
    early = spec.pipeline == "StableDiffusionPipeline" and spec.written_by("unet") < (0, 9)
    return max(size, DEFAULT_SIZE) if early and isinstance(size, int) else size
