"""Write export/figures.json, what `qsched-edge models` says of sizes: `python -m benchmarks.model_figures`.

Parameters and bytes are computed from the architectures in random_model.py, on the meta device, and from the embedded
model's files: the networks that a bundle holds, at the widths of 4-bit recipes. Memory is what BENCHMARKS.md has
measured of one step where it has, else the largest network's bytes, below which no step runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks.random_model import MODELS, SAID, on_meta
from qsched_edge.checkpoint.defaults import Traits, completed, family_defaults
from qsched_edge.checkpoint.recipe_file import Recipe

ROOT = Path(__file__).parent.parent
EMOJI = "emoji"
SOURCES = {  # what recipes name -> the architecture
    "stabilityai/sd-turbo": "sd-turbo",
    "stabilityai/sdxl-turbo": "sdxl-turbo",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl-turbo",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "lcm-dreamshaper-v7",
    "SimianLuo/LCM_Dreamshaper_v7": "lcm-dreamshaper-v7",
    "black-forest-labs/FLUX.1-schnell": "flux1-schnell",
    "black-forest-labs/FLUX.2-klein-4B": "flux2-klein-4b",
    "Tongyi-MAI/Z-Image-Turbo": "z-image-turbo",
    "../models/emoji": EMOJI,
}
MEASURED = {  # BENCHMARKS.md: peak of one step's process, and the picture's side
    "flux1-schnell": (7_640_000_000, 256),
    "sdxl-turbo": (2_120_000_000, 512),
    "sd-turbo": (1_850_000_000, 512),
    "lcm-dreamshaper-v7": (2_200_000_000, 512),
}
UNREAD = {"flux2-klein-4b": 27, "z-image-turbo": 35}  # Qwen3's first layer that no graph holds


def held(model: str, component: str, name: str) -> bool:
    """Whether a bundle's graphs hold a tensor: of autoencoders the decoder, of Qwen3 the layers that are read."""
    if component == "vae":
        return name.startswith(("decoder.", "post_quant_conv."))
    if component == "text_encoder" and model in UNREAD:
        layer = name.removeprefix("model.").split(".")
        return layer[0] == "embed_tokens" or (layer[0] == "layers" and int(layer[1]) < UNREAD[model])
    return True


def tensors(model: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(component of the bundle, tensor's name there, shape) of all that its graphs hold."""
    if model == EMOJI:
        for component in ("unet", "vae", "text_encoder"):
            with safe_open(next((ROOT / "models/emoji" / component).glob("*.safetensors")), "pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    if held(model, component, name):
                        yield component.replace("vae", "vae_decoder"), name, tuple(file.get_slice(name).get_shape())
        return
    for component, (library, kind, config) in MODELS[model][1].items():
        if kind.endswith(("Tokenizer", "Scheduler")):
            continue
        for name, parameter in on_meta(library, kind, config).named_parameters():
            if held(model, component, name):
                yield "vae_decoder" if component == "vae" else component, name.removeprefix("model."), parameter.shape


def stored_bytes(recipe: Recipe, component: str, name: str, shape: tuple[int, ...]) -> float:
    """Integers, a 16-bit scale and a zero point for each group; 16 bits where the recipe or the shape says so."""
    bits = recipe.scheme(component, name, 4, "rtn").weight_bits if len(shape) > 1 else 16
    return prod(shape) * (bits + ((16 + bits) / recipe.group_size if bits < 16 else 0)) / 8


def figures(source: str, model: str) -> dict[str, Any]:
    pipeline, components = MODELS["lcm-dreamshaper-v7" if model == EMOJI else model]
    traits = traits_of(source, pipeline, components, model)
    recipe = completed(Recipe(name=model, source=source), family_defaults(traits))
    parameters: dict[str, int] = {}
    stored: dict[str, float] = {}
    for component, name, shape in tensors(model):
        parameters[component] = parameters.get(component, 0) + prod(shape)
        stored[component] = stored.get(component, 0) + stored_bytes(recipe, component, name, shape)
    ram, side = MEASURED.get(model, (int(max(stored.values())), 0))
    return {
        "pipeline": pipeline, "scheduler": traits.scheduler, "spacing": traits.spacing, "embedded": traits.embedded,
        "distilled": traits.distilled, "parameters": sum(parameters.values()),
        "backbone_parameters": max(parameters.get(n, 0) for n in ("unet", "transformer")),
        "w4_bytes": int(sum(stored.values())), "ram_bytes": ram, "ram_measured_at": side,
    }  # fmt: skip


def traits_of(source: str, pipeline: str, components: dict[str, Any], model: str) -> Traits:
    """As the published folder's; the bases of LoRAs are many-step models with Euler's or DDIM's scheduler."""
    _, scheduler, settings = components["scheduler"]
    backbone = components.get("unet", components.get("transformer"))[2]
    base = "-base-" in source or "v1-5" in source
    return Traits(
        pipeline.replace("LatentConsistencyModelPipeline", "StableDiffusionPipeline") if base else pipeline,
        "EulerDiscreteScheduler" if base else scheduler,
        "leading" if base else settings.get("timestep_spacing", ""),
        bool(backbone.get("time_cond_proj_dim") or backbone.get("guidance_embeds")) and not base,
        name=source,
        distilled=bool(SAID.get(model, {}).get("is_distilled")),
    )


if __name__ == "__main__":
    found = {source: figures(source, model) for source, model in SOURCES.items()}
    (ROOT / "export/figures.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for source, row in found.items():
        print(source, row)
