"""StableDiffusionPipeline and LatentConsistencyModelPipeline: one CLIP text encoder, a U-Net, a VAE."""

from __future__ import annotations

from functools import partial

from qsched_runtime.manifest import Guidance

from qsched_edge.capture import autoencoder, unet
from qsched_edge.pipelines.layout import ComponentPlan, Layout
from qsched_edge.pipelines.parts import Choices, autoencoder_plans, check_classes, clip_plan, latent_spec
from qsched_edge.recipes import ModelSpec
from qsched_edge.schedule import Sampling

CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": autoencoder.CLASSES,
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}


def layout(spec: ModelSpec, choices: Choices) -> Layout:
    check_classes(spec, CLASSES)
    config, text = spec.config("unet"), clip_plan(spec, "text_encoder", "tokenizer")
    length = spec.config("text_encoder")["max_position_embeddings"]
    condition = config.get("time_cond_proj_dim")
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
        latents=latent_spec(spec, choices, config["in_channels"], config["sample_size"], unet.multiple_of(config), 0),
        guidance=Guidance("embedded" if condition else "classifier-free", spec.recipe.guidance),
        sampling=Sampling(eta=spec.recipe.eta),
    )
