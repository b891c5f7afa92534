"""Flux2KleinPipeline: states of three of Qwen3's layers for the text, a transformer on patches of latents, a VAE."""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np
from qsched_runtime.manifest import Guidance, LatentSpec

from qsched_edge.capture import flux2
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.checkpoint.schedule import Sampling
from qsched_edge.choices import Choices
from qsched_edge.errors import RecipeError
from qsched_edge.pipelines.layout import ComponentPlan, Layout
from qsched_edge.pipelines.parts import Mu, check_classes, qwen3_plan, shift_by

CLASSES = {
    "transformer": ("Flux2Transformer2DModel",),
    "vae": ("AutoencoderKLFlux2",),
    "text_encoder": ("Qwen3ForCausalLM",),
    "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
}
DEFAULT_SIDE = 1024  # pixels: default_sample_size of Flux2KleinPipeline, times 8
DEFAULT_LENGTH = 512  # max_sequence_length of Flux2KleinPipeline.__call__
BREAK = 4300  # patches at which compute_empirical_mu goes over to another line


def layout(spec: ModelSpec, choices: Choices) -> Layout:
    """Latents are the patches that the transformer reads; distilled models take no guidance."""
    check_classes(spec, CLASSES)
    if choices.decoder != "full":
        raise RecipeError(
            f"{spec.folder}: FLUX.2 has no AutoencoderTiny in diffusers: leave out --decoder {choices.decoder}"
        )
    config, length = spec.config("transformer"), spec.recipe.sequence_length or DEFAULT_LENGTH
    if config["guidance_embeds"]:
        raise RecipeError(
            f"{spec.folder}: its transformer reads a guidance scale, which no Flux2KleinPipeline gives it"
        )
    layers, latents = read_layers(), latent_spec(spec)
    inputs = {
        "hidden_states": "latents",
        "encoder_hidden_states": {"outputs": [f"text_encoder.hidden_states.{layer}" for layer in layers]},
        "timestep": "timesteps",
    }
    backbone = ComponentPlan(
        "transformer", "transformer", spec.part("transformer"), partial(flux2.capture_flux2, config, length), inputs
    )
    distilled = bool(spec.index.get("is_distilled"))
    return Layout(
        components=(qwen3_plan(spec, "text_encoder", "tokenizer", length, layers), backbone, *coders(spec, choices)),
        backbone="transformer",
        decoder="vae_decoder",
        encoder="vae_encoder" if choices.encoder else None,
        tokenizers=("tokenizer",),
        latents=latents,
        guidance=Guidance("none" if distilled else "classifier-free", spec.guidance),
        sequence_length=length,
        chat={"enable_thinking": False},
        sampling=Sampling(
            sigmas=lambda n: np.linspace(1.0, 1 / n, n),
            timestep_scale=1 / 1000,
            shift=shift_by(mu_of(), latents, 1, (BREAK,)),
        ),
        strength_rounds_up=True,
    )


def read_layers() -> tuple[int, ...]:
    """The layers whose states Flux2KleinPipeline reads."""
    from diffusers import Flux2KleinPipeline

    return tuple(inspect.signature(Flux2KleinPipeline.__call__).parameters["text_encoder_out_layers"].default)


def mu_of() -> Mu:
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    return compute_empirical_mu


def latent_spec(spec: ModelSpec) -> LatentSpec:
    """Of patches: the normalisation is in the decoder's graph."""
    config, read = spec.config("vae"), spec.config("transformer")["in_channels"]
    if read != flux2.channels(config):
        raise RecipeError(
            f"{spec.folder}: its network reads {read} channels, its patches have {flux2.channels(config)}"
        )
    pixels = flux2.pixels_per_patch(config)
    height, width = (side // pixels for side in (spec.recipe.height or DEFAULT_SIDE, spec.recipe.width or DEFAULT_SIDE))
    return LatentSpec(read, height, width, 1.0, 0.0, pixels, 1, 0)


def coders(spec: ModelSpec, choices: Choices) -> tuple[ComponentPlan, ...]:
    config, folder = spec.config("vae"), spec.part("vae")
    decode, encode = partial(flux2.capture_decoder, config), partial(flux2.capture_encoder, config)
    decoder = ComponentPlan("vae_decoder", "vae", folder, decode, {"latent_sample": "latents"})
    encoder = ComponentPlan("vae_encoder", "vae", folder, encode, {"sample": "image"})
    return (decoder, encoder) if choices.encoder else (decoder,)
