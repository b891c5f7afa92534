"""StableDiffusionPipeline and LatentConsistencyModelPipeline: one CLIP text encoder, a U-Net, a VAE."""

from __future__ import annotations

from functools import partial

from qsched_runtime.manifest import Guidance, LatentSpec

from qsched_edge.capture import autoencoder, clip_text, unet
from qsched_edge.errors import RecipeError
from qsched_edge.pipelines.layout import ComponentPlan, Layout
from qsched_edge.recipes import ModelSpec

CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}


def layout(spec: ModelSpec) -> Layout:
    for component, expected in CLASSES.items():
        found = spec.index.get(component, [None, None])[1]
        if found != expected:
            raise RecipeError(f"{spec.folder}/{component} is a {found}: only {expected} is supported here")
    unet_config, vae_config, text_config = (spec.config(c) for c in ("unet", "vae", "text_encoder"))
    length = text_config["max_position_embeddings"]
    condition = unet_config.get("time_cond_proj_dim")
    unet_inputs = {
        "sample": "latents",
        "timestep": "timestep",
        "encoder_hidden_states": {"outputs": ["text_encoder.last_hidden_state"]},
        **({"timestep_cond": {"guidance_embedding": condition}} if condition else {}),
    }
    return Layout(
        components=(
            ComponentPlan(
                "text_encoder",
                "text_encoder",
                partial(clip_text.capture_clip_text, text_config, length),
                {"input_ids": {"tokenizer": "tokenizer"}},
                prefix="text_model.",
            ),
            ComponentPlan("unet", "unet", partial(unet.capture_unet, unet_config, length), unet_inputs),
            ComponentPlan(
                "vae_decoder", "vae", partial(autoencoder.capture_decoder, vae_config), {"latent_sample": "latents"}
            ),
        ),
        backbone="unet",
        decoder="vae_decoder",
        encoder=None,
        tokenizers=("tokenizer",),
        latents=LatentSpec(
            channels=unet_config["in_channels"],
            height=unet_config["sample_size"],
            width=unet_config["sample_size"],
            scaling_factor=vae_config["scaling_factor"],
            shift_factor=vae_config.get("shift_factor") or 0.0,
            pixels_per_latent=autoencoder.pixels_per_latent(vae_config),
            multiple_of=unet.multiple_of(unet_config),
            patch=0,
        ),
        guidance=Guidance("embedded" if condition else "classifier-free", spec.recipe.guidance),
    )
