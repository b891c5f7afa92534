"""FluxPipeline: CLIP for the pooled text, T5 for the text states, a transformer on patches of latents, a VAE."""

from __future__ import annotations

from functools import partial

import numpy as np
from qsched_runtime.manifest import Guidance

from qsched_edge.capture import autoencoder, flux
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.checkpoint.schedule import Sampling
from qsched_edge.choices import Choices
from qsched_edge.pipelines.layout import ComponentPlan, Layout
from qsched_edge.pipelines.parts import (
    autoencoder_plans,
    check_classes,
    clip_plan,
    latent_spec,
    linear_mu,
    shift_by,
    t5_plan,
)

CLASSES = {
    "transformer": ("FluxTransformer2DModel",),
    "vae": autoencoder.CLASSES,
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("T5EncoderModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("T5Tokenizer", "T5TokenizerFast"),
}
PATCH = 2
DEFAULT_SIZE = 128  # latents of FluxPipeline.default_sample_size
DEFAULT_LENGTH = 512  # max_sequence_length of FluxPipeline.__call__


def layout(spec: ModelSpec, choices: Choices) -> Layout:
    """The transformer sees the timestep in 0..1 and patches of 2 x 2 latents with their positions."""
    check_classes(spec, CLASSES)
    config, length = spec.config("transformer"), spec.recipe.sequence_length or DEFAULT_LENGTH
    guided = bool(config["guidance_embeds"])
    inputs = {
        "hidden_states": "latents",
        "encoder_hidden_states": {"outputs": ["text_encoder_2.last_hidden_state"]},
        "pooled_projections": {"outputs": ["text_encoder.pooler_output"]},
        "timestep": "timesteps",
        "img_ids": "patch_positions",
        "txt_ids": {"zeros": [length, 3]},
        **({"guidance": "guidance_scale"} if guided else {}),
    }
    backbone = ComponentPlan(
        "transformer", "transformer", spec.part("transformer"), partial(flux.capture_flux, config, length), inputs
    )
    latents = latent_spec(spec, choices, config["in_channels"] // PATCH**2, DEFAULT_SIZE, PATCH, PATCH)
    return Layout(
        components=(
            clip_plan(spec, "text_encoder", "tokenizer"),
            t5_plan(spec, "text_encoder_2", "tokenizer_2", length),
            backbone,
            *autoencoder_plans(spec, choices),
        ),
        backbone="transformer",
        decoder="vae_decoder",
        encoder="vae_encoder" if choices.encoder else None,
        tokenizers=("tokenizer", "tokenizer_2"),
        latents=latents,
        guidance=Guidance("embedded" if guided else "none", spec.guidance),
        sequence_length=length,
        sampling=Sampling(
            sigmas=lambda n: np.linspace(1.0, 1 / n, n),
            timestep_scale=1 / 1000,
            shift=shift_by(linear_mu(spec), latents, PATCH),
        ),
        strength_rounds_up=True,
    )
