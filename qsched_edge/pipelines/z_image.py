"""ZImagePipeline: Qwen3's last but one state for the text, a transformer on latents, a VAE."""

from __future__ import annotations

from functools import partial

import numpy as np
from qsched_runtime.manifest import Guidance

from qsched_edge.capture import autoencoder, z_image
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.checkpoint.schedule import Sampling
from qsched_edge.choices import Choices
from qsched_edge.errors import RecipeError
from qsched_edge.pipelines.layout import ComponentPlan, Layout
from qsched_edge.pipelines.parts import (
    autoencoder_plans,
    check_classes,
    latent_spec,
    linear_mu,
    qwen3_plan,
    shift_by,
)

CLASSES = {
    "transformer": ("ZImageTransformer2DModel",),
    "vae": autoencoder.CLASSES,
    "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
    "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
}
DEFAULT_SIZE = 128  # latents of the 1024 pixels in ZImagePipeline.__call__
DEFAULT_LENGTH = 512  # max_sequence_length of ZImagePipeline.__call__


def layout(spec: ModelSpec, choices: Choices) -> Layout:
    """ZImagePipeline adds `guidance_scale` times the difference to the prompt's output, others to the negative one's:
    its scale is one less than a bundle's. A recipe's is the pipeline's."""
    check_classes(spec, CLASSES)
    config, length = spec.config("transformer"), spec.recipe.sequence_length or DEFAULT_LENGTH
    if z_image.PATCH not in config["all_patch_size"] or config["siglip_feat_dim"] is not None:
        raise RecipeError(f"{spec.folder}: its transformer reads other patches, or pictures, unlike Z-Image-Turbo's")
    last = spec.config("text_encoder")["num_hidden_layers"] - 1
    inputs = {
        "hidden_states": "latents",
        "encoder_hidden_states": {"outputs": [f"text_encoder.hidden_states.{last}"]},
        "attention_mask": {"attention_mask": "tokenizer"},
        "timestep": "timesteps",
    }
    backbone = ComponentPlan(
        "transformer", "transformer", spec.part("transformer"), partial(z_image.capture_z_image, config, length), inputs
    )
    latents = latent_spec(spec, choices, config["in_channels"], DEFAULT_SIZE, z_image.PATCH, 0)
    text = qwen3_plan(spec, "text_encoder", "tokenizer", length, (last,))
    guidance = Guidance("classifier-free", spec.guidance + 1) if spec.guidance else Guidance("none", 0.0)
    return Layout(
        components=(text, backbone, *autoencoder_plans(spec, choices)),
        backbone="transformer",
        decoder="vae_decoder",
        encoder="vae_encoder" if choices.encoder else None,
        tokenizers=("tokenizer",),
        latents=latents,
        guidance=guidance,
        sequence_length=length,
        chat={"enable_thinking": True},
        sampling=Sampling(
            sigmas=lambda n: np.linspace(1.0, 1 / n, n), shift=shift_by(linear_mu(spec), latents, z_image.PATCH)
        ),
        strength_rounds_up=True,
    )
