"""StableDiffusion3Pipeline: two CLIP encoders and T5 for the text, a transformer on latents, a VAE."""

from __future__ import annotations

from functools import partial

from qsched_runtime.manifest import Guidance

from qsched_edge.capture import autoencoder, sd3
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.choices import Choices
from qsched_edge.pipelines.layout import ComponentPlan, Layout
from qsched_edge.pipelines.parts import autoencoder_plans, check_classes, clip_plan, latent_spec, t5_plan

CLASSES = {
    "transformer": ("SD3Transformer2DModel",),
    "vae": autoencoder.CLASSES,
    "text_encoder": ("CLIPTextModelWithProjection",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "text_encoder_3": ("T5EncoderModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_3": ("T5Tokenizer", "T5TokenizerFast"),
}
DEFAULT_LENGTH = 256  # max_sequence_length of StableDiffusion3Pipeline.__call__
ENCODERS = ("text_encoder", "text_encoder_2")


def layout(spec: ModelSpec, choices: Choices) -> Layout:
    """The transformer reads both CLIP encoders' last but one hidden states side by side, then T5's."""
    check_classes(spec, CLASSES)
    config, encoders = spec.config("transformer"), [spec.config(name) for name in ENCODERS]
    t5_length = spec.recipe.sequence_length or DEFAULT_LENGTH
    clip = encoders[0]["max_position_embeddings"], sum(encoder["hidden_size"] for encoder in encoders)
    penultimate = [
        f"{name}.hidden_states.{encoder['num_hidden_layers'] - 1}"
        for name, encoder in zip(ENCODERS, encoders, strict=True)
    ]
    inputs = {
        "hidden_states": "latents",
        "clip_states": {"outputs": penultimate},
        "t5_states": {"outputs": ["text_encoder_3.last_hidden_state"]},
        "pooled_projections": {"outputs": [f"{name}.text_embeds" for name in ENCODERS]},
        "timestep": "timesteps",
    }
    backbone = ComponentPlan(
        "transformer",
        "transformer",
        spec.part("transformer"),
        partial(sd3.capture_sd3, config, clip, t5_length),
        inputs,
    )
    texts = (
        clip_plan(spec, "text_encoder", "tokenizer", hidden_states=True),
        clip_plan(spec, "text_encoder_2", "tokenizer_2", hidden_states=True),
        t5_plan(spec, "text_encoder_3", "tokenizer_3", t5_length),
    )
    return Layout(
        components=(*texts, backbone, *autoencoder_plans(spec, choices)),
        backbone="transformer",
        decoder="vae_decoder",
        encoder="vae_encoder" if choices.encoder else None,
        tokenizers=("tokenizer", "tokenizer_2", "tokenizer_3"),
        latents=latent_spec(spec, choices, config["in_channels"], config["sample_size"], config["patch_size"], 0),
        guidance=Guidance("classifier-free", spec.guidance),
        sequence_length=t5_length,
        strength_rounds_up=True,
    )
