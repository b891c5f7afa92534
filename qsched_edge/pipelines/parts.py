"""Pieces that the families' layouts share: autoencoders, text encoders, the check of component classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from qsched_runtime.manifest import LatentSpec
from qsched_runtime.schedule import Shift, ShiftLine

from qsched_edge.capture import autoencoder, clip_text, qwen3, t5
from qsched_edge.checkpoint.inversion import learned
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.choices import Choices
from qsched_edge.errors import RecipeError
from qsched_edge.pipelines.layout import ComponentPlan

MOST_TOKENS = 2**20


def check_classes(spec: ModelSpec, expected: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a component of a class that nobody captures, by name, with what is supported."""
    for component, classes in expected.items():
        found = spec.class_of(component)
        if found not in classes:
            raise RecipeError(f"{spec.folder}: its {component} is a {found}: supported here: {', '.join(classes)}")


def clip_plan(spec: ModelSpec, name: str, tokenizer: str, hidden_states: bool = False) -> ComponentPlan:
    config = read_as(spec, name)
    length = config["max_position_embeddings"]
    return ComponentPlan(
        name,
        name,
        spec.part(name),
        partial(clip_text.capture_clip_text, config, length, hidden_states),
        {"input_ids": {"tokenizer": tokenizer}},
        prefixes=("text_model.", "clip."),
    )


def read_as(spec: ModelSpec, encoder: str) -> dict[str, Any]:
    """A CLIP text encoder's configuration, with room for the words that the recipe adds."""
    config = spec.config(encoder)
    return {**config, "vocab_size": config["vocab_size"] + sum(word.vectors for word in learned(spec, encoder))}


def t5_plan(spec: ModelSpec, name: str, tokenizer: str, length: int) -> ComponentPlan:
    """T5's encoder, which reads `length` tokens; its table of tokens is stored under two names."""
    return ComponentPlan(
        name,
        name,
        spec.part(name),
        partial(t5.capture_t5, spec.config(name), length),
        {"input_ids": {"tokenizer": tokenizer}},
        prefixes=("transformer.",),
        aliases={"encoder.embed_tokens.weight": "shared.weight", "shared.weight": "encoder.embed_tokens.weight"},
    )


def qwen3_plan(spec: ModelSpec, name: str, tokenizer: str, length: int, layers: Sequence[int]) -> ComponentPlan:
    """Qwen3's first layers, as far as one of the states `layers` is read; its files call them "model."."""
    return ComponentPlan(
        name,
        name,
        spec.part(name),
        partial(qwen3.capture_qwen3, spec.config(name), length, layers),
        {"input_ids": {"tokenizer": tokenizer}, "attention_mask": {"attention_mask": tokenizer}},
        prefixes=("model.",),
    )


Mu = Callable[[int, int], float]  # of tokens of the picture and steps


def shift_by(mu: Mu, latents: LatentSpec, patch: int, breaks: Sequence[int] = ()) -> Callable[[int], Shift]:
    """The schedule's shift for a number of steps, from a pipeline's own function: of tokens, which are patch x patch
    latents each, in straight lines between the `breaks`."""

    def shift(steps: int) -> Shift:
        lines = []
        for first, last in pairwise((0, *breaks, MOST_TOKENS)):
            low, high = (first + 1, last) if first else (1, min(last, 1024))
            slope = (mu(high, steps) - mu(low, steps)) / (high - low)
            lines.append(ShiftLine(last * patch**2, slope / patch**2, mu(low, steps) - slope * low))
        unmoved = Shift(0.0, tuple(lines))
        return replace(unmoved, mu=unmoved.at(latents.height * latents.width))

    return shift


def linear_mu(spec: ModelSpec) -> Mu:
    """What the pipelines of FLUX.1 and Z-Image compute, from numbers of the scheduler's configuration."""
    config = {**spec.small_json("scheduler", "scheduler_config.json"), **spec.recipe.scheduler_settings}
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    numbers = [config.get(name, default) for name, default in zip(names, (256, 4096, 0.5, 1.15), strict=True)]

    def mu(tokens: int, steps: int) -> float:
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        return float(calculate_shift(tokens, *numbers))

    return mu


def autoencoder_plans(spec: ModelSpec, choices: Choices) -> tuple[ComponentPlan, ...]:
    """The decoder and, if chosen, the encoder of the same autoencoder: both scale latents alike."""
    folder, config = autoencoder_of(spec, choices)
    decode = partial(autoencoder.capture_decoder, config)
    plans = [ComponentPlan("vae_decoder", "vae", folder, decode, {"latent_sample": "latents"})]
    if choices.encoder:
        capture = partial(autoencoder.capture_encoder, config)
        plans.append(ComponentPlan("vae_encoder", "vae", folder, capture, {"sample": "image"}))
    return tuple(plans)


def autoencoder_of(spec: ModelSpec, choices: Choices) -> tuple[Path, dict[str, Any]]:
    """Folder and configuration of the model's own autoencoder, or of the recipe's tiny one."""
    if choices.decoder == "full":
        return spec.part("vae"), plainly_scaled(spec, spec.config("vae"))
    if not spec.recipe.tiny_decoder:
        raise RecipeError(f"recipe {spec.recipe.name} names no tiny_decoder: add the folder of an AutoencoderTiny")
    folder = spec.locate(spec.recipe.tiny_decoder)
    return folder, spec.read_config(folder, "AutoencoderTiny")


def plainly_scaled(spec: ModelSpec, config: dict[str, Any]) -> dict[str, Any]:
    """`config`, or RecipeError if its latents have a mean and deviation for each channel: a bundle has one number."""
    found = [key for key in ("latents_mean", "latents_std") if config.get(key) is not None]
    if found:
        raise RecipeError(
            f"{spec.part('vae')}: its configuration sets {' and '.join(found)}, which bundles do not hold: "
            "name an autoencoder without them in the recipe's [parts], or give --decoder tiny"
        )
    return config


def latent_spec(
    spec: ModelSpec, choices: Choices, channels: int, size: int | list[int], multiple_of: int, patch: int
) -> LatentSpec:
    """Scaling of the autoencoder that ships: tiny ones take the latents as they are. `size` is the default height and
    width of latents, one number or two."""
    _, config = autoencoder_of(spec, choices)
    if channels != config["latent_channels"]:
        raise RecipeError(
            f"{spec.folder}: its network reads {channels} channels, its autoencoder's latents have "
            f"{config['latent_channels']}: networks that also read a picture or a mask are not supported"
        )
    height, width = (size, size) if isinstance(size, int) else size
    return LatentSpec(
        channels=channels,
        height=spec.recipe.height // autoencoder.pixels_per_latent(config) if spec.recipe.height else height,
        width=spec.recipe.width // autoencoder.pixels_per_latent(config) if spec.recipe.width else width,
        scaling_factor=config["scaling_factor"],
        shift_factor=config["shift_factor"] or 0.0,  # AutoencoderKL's default is None
        pixels_per_latent=autoencoder.pixels_per_latent(config),
        multiple_of=multiple_of,
        patch=patch,
    )
