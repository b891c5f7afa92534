"""What a model gets that its recipe does not say, by family: widths, prompts, step count, guidance, tiny decoder.

Nothing of this is in a recipe, so that a folder without one is exported as a recipe of its family would have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from qsched_edge.checkpoint.recipe_file import Recipe

AUTOENCODER = {"vae_decoder": 16, "vae_encoder": 16}  # of little size, and every error of theirs is seen
KEPT_UNET = ("unet.conv_in.*", "unet.conv_out.*", "unet.time_embedding.*", "unet.add_embedding.*",
             "unet.class_embedding.*", "*embedding.weight")  # fmt: skip
KEPT_FLUX = ("transformer.x_embedder.*", "transformer.context_embedder.*", "transformer.time_text_embed.*",
             "transformer.norm_out.*", "transformer.proj_out.*", "*embedding.weight",
             "text_encoder_2.shared.weight")  # fmt: skip
KEPT_FLUX2 = ("transformer.x_embedder.*", "transformer.context_embedder.*", "transformer.time_guidance_embed.*",
              "transformer.norm_out.*", "transformer.proj_out.*")  # fmt: skip
KEPT_Z_IMAGE = ("transformer.all_x_embedder.*", "transformer.cap_embedder.*", "transformer.t_embedder.*",
                "transformer.all_final_layer.*")  # fmt: skip
KEPT_SD3 = ("transformer.pos_embed.*", "transformer.context_embedder.*", "transformer.time_text_embed.*",
            "transformer.norm_out.*", "transformer.proj_out.*", "*embedding.weight",
            "text_encoder_3.shared.weight")  # fmt: skip
KEEP = {
    "StableDiffusionPipeline": KEPT_UNET,
    "LatentConsistencyModelPipeline": KEPT_UNET,
    "StableDiffusionXLPipeline": KEPT_UNET,
    "StableDiffusion3Pipeline": KEPT_SD3,
    "FluxPipeline": KEPT_FLUX,
    "Flux2KleinPipeline": KEPT_FLUX2,
    "ZImagePipeline": KEPT_Z_IMAGE,
}
TABLE = ("text_encoder.embed_tokens.weight",)
BYTES = {"Flux2KleinPipeline": TABLE, "ZImagePipeline": TABLE}  # large weights of 8 bits at least
# (channels, scaling factor) of latents -> the tiny autoencoder that was trained on them
TINY_DECODERS = {
    (4, 0.18215): "madebyollin/taesd@614f76814bbe30edbe2e627ace1c2234c81a2c0e",
    (4, 0.13025): "madebyollin/taesdxl",
    (16, 0.3611): "madebyollin/taef1",
    (16, 1.5305): "madebyollin/taesd3",
}
FEW_STEPS = re.compile(
    r"turbo|lightning|schnell|hyper[-_]?(sd|flux)|(?<![a-z])(lcm|pcm|tcd|dmd)(?![a-z])", re.IGNORECASE
)
MANY = {  # pipeline -> (steps, guidance) of a model that was not distilled
    "StableDiffusionXLPipeline": (25, 5.0),
    "StableDiffusion3Pipeline": (28, 7.0),
    "FluxPipeline": (28, 3.5),
    "Flux2KleinPipeline": (50, 4.0),
    "ZImagePipeline": (50, 5.0),
}


@dataclass(frozen=True)
class Traits:
    """What decides: the pipeline class, the scheduler that samples and its timestep_spacing, whether the network
    reads the guidance scale, channels and scaling factor of its latents, the model's name, and whether its index calls
    it distilled."""

    pipeline: str
    scheduler: str = ""
    spacing: str = ""
    embedded: bool = False
    latents: tuple[int, float] = (0, 0.0)
    name: str = ""
    distilled: bool = False


@dataclass(frozen=True)
class FamilyDefaults:
    """The keys of a recipe that a family has something to say of."""

    steps: tuple[int, ...]
    guidance: float
    sequence_length: int = 0
    scheduler_settings: Mapping[str, Any] = field(default_factory=dict)
    precision: Mapping[str, int] = field(default_factory=dict)
    keep: Mapping[str, int] = field(default_factory=dict)
    prompts: str = "shipped:general"
    heldout: str = "shipped:general-heldout"
    tiny_decoder: str = ""


def family_defaults(traits: Traits) -> FamilyDefaults:
    steps, guidance = sampling_of(traits)
    spaced = unspaced(traits) and FEW_STEPS.search(traits.name)
    return FamilyDefaults(
        steps=(steps,),
        guidance=guidance,
        # schnell was trained on 256 tokens, models that read the guidance scale on as many as FluxPipeline's default
        sequence_length=256 if traits.pipeline == "FluxPipeline" and not traits.embedded else 0,
        scheduler_settings={"timestep_spacing": "trailing"} if spaced else {},
        precision=AUTOENCODER,
        keep={**dict.fromkeys(KEEP.get(traits.pipeline, ()), 16), **dict.fromkeys(BYTES.get(traits.pipeline, ()), 8)},
        tiny_decoder=TINY_DECODERS.get(traits.latents, ""),
    )


def sampling_of(traits: Traits) -> tuple[int, float]:
    """(steps, guidance). Consistency models: 4 steps, their papers' scale where they read one, else none; distilled
    models are told by trailing timesteps, FLUX's by reading no scale, others by their name."""
    if traits.pipeline == "FluxPipeline":
        return MANY["FluxPipeline"] if traits.embedded else (4, 0.0)
    if traits.distilled:
        return 4, 1.0
    if traits.embedded:
        return 4, 8.0
    if traits.scheduler in ("LCMScheduler", "TCDScheduler"):
        return 4, 1.0
    if traits.spacing == "trailing" or FEW_STEPS.search(traits.name):
        return 4, 0.0
    return MANY.get(traits.pipeline, (25, 7.5))


def unspaced(traits: Traits) -> bool:
    """A base model's folder with a distilled network in it keeps the base's scheduler, whose first timestep is not
    the noisiest."""
    return traits.scheduler.startswith("Euler") and traits.spacing != "trailing"


def completed(recipe: Recipe, defaults: FamilyDefaults) -> Recipe:
    """`recipe` with the family's word wherever it has none; of tables, entry by entry."""
    found: dict[str, Any] = {}
    for name, value in ((f.name, getattr(defaults, f.name)) for f in fields(defaults)):
        own = getattr(recipe, name)
        if name in ("precision", "keep"):
            found[name] = {**value, **own}
        elif own in ((), None, "", 0, {}) and not (name == "guidance" and own == 0):
            found[name] = value
    return replace(recipe, **found)
