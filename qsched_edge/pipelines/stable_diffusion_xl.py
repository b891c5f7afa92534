"""StableDiffusionXLPipeline: two CLIP text encoders, a U-Net that also reads pooled text and the image size, a VAE."""

from __future__ import annotations

from functools import partial

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
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}

DEFAULT_SIZE = 128  # latents of StableDiffusionXLPipeline.default_sample_size


def layout(spec: ModelSpec, choices: Choices) -> Layout:
    """The U-Net reads both encoders' last but one hidden states, side by side."""
    check_classes(spec, CLASSES)
    config, encoders = spec.config("unet"), ("text_encoder", "text_encoder_2")
    penultimate = [f"{name}.hidden_states.{spec.config(name)['num_hidden_layers'] - 1}" for name in encoders]
    length = spec.config("text_encoder")["max_position_embeddings"]
    condition = config["time_cond_proj_dim"]
    inputs = {
        "sample": "latents",
        "timestep": "timestep",
        "encoder_hidden_states": {"outputs": penultimate},
        "text_embeds": {"outputs": ["text_encoder_2.text_embeds"]},
        "time_ids": "image_size",
        **({"timestep_cond": {"guidance_embedding": condition}} if condition else {}),
    }
    backbone = ComponentPlan("unet", "unet", spec.part("unet"), partial(unet.capture_unet, config, length), inputs)
    texts = (
        clip_plan(spec, "text_encoder", "tokenizer", hidden_states=True),
        clip_plan(spec, "text_encoder_2", "tokenizer_2", hidden_states=True),
    )
    size = config["sample_size"] or DEFAULT_SIZE
    kind = "embedded" if condition else "classifier-free"
    zeros = bool(spec.index.get("force_zeros_for_empty_prompt", True))
    return Layout(
        components=(*texts, backbone, *autoencoder_plans(spec, choices)),
        backbone="unet",
        decoder="vae_decoder",
        encoder="vae_encoder" if choices.encoder else None,
        tokenizers=("tokenizer", "tokenizer_2"),
        latents=latent_spec(spec, choices, config["in_channels"], size, unet.multiple_of(config), 0),
        guidance=Guidance(kind, spec.guidance, zero_without_negative=zeros),
        sampling=Sampling(eta=spec.recipe.eta),
    )
