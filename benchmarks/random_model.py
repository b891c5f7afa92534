"""Write a full-size model with random weights: `python -m benchmarks.random_model sdxl-turbo -o DIR`.

The configurations are those of the public checkpoints; the weights are normal numbers of deviation 0.02 in sharded
bfloat16 or float16 safetensors. One shard is in memory at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qsched_edge import torchvision_schema

torchvision_schema.declare()

import torch
from safetensors.torch import save_file

from training.names import published

SHARD = 2**31  # bytes

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
CLIP_L = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 768,
    "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407,
}  # fmt: skip
CLIP_G = {
    **CLIP_L, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "is_encoder_decoder": False, "use_cache": False,
}  # fmt: skip
VAE = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2,
}  # fmt: skip
SD15_UNET = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
}  # fmt: skip
SDXL_UNET = {
    "sample_size": 64, "block_out_channels": [320, 640, 1280], "layers_per_block": 2, "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20], "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
FLUX = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": False, "axes_dims_rope": [16, 56, 56],
}  # fmt: skip
QWEN3_4B = {
    "vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 1e6,
    "tie_word_embeddings": True,
}  # fmt: skip
FLUX2_KLEIN = {
    "in_channels": 128, "num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 7680, "guidance_embeds": False,
}  # fmt: skip
FLUX_VAE = {
    **VAE, "latent_channels": 16, "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
TURBO = ("diffusers", "EulerAncestralDiscreteScheduler", {**BETAS, "timestep_spacing": "trailing"})

# component -> (library, class, configuration)
MODELS: dict[str, tuple[str, dict[str, tuple[str, str, dict[str, Any]]]]] = {
    "sd-turbo": (
        "StableDiffusionPipeline",
        {
            "unet": ("diffusers", "UNet2DConditionModel",
                     {**SD15_UNET, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
                      "use_linear_projection": True}),
            "vae": ("diffusers", "AutoencoderKL", {**VAE, "sample_size": 768, "scaling_factor": 0.18215}),
            "text_encoder": ("transformers", "CLIPTextModel",
                             {**CLIP_G, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
                              "num_attention_heads": 16, "projection_dim": 512}),
            "tokenizer": ("transformers", "CLIPTokenizer", {}),
            "scheduler": TURBO,
        },
    ),
    "lcm-dreamshaper-v7": (
        "LatentConsistencyModelPipeline",
        {
            "unet": ("diffusers", "UNet2DConditionModel", {**SD15_UNET, "time_cond_proj_dim": 256, "sample_size": 96}),
            "vae": ("diffusers", "AutoencoderKL", {**VAE, "sample_size": 768, "scaling_factor": 0.18215}),
            "text_encoder": ("transformers", "CLIPTextModel", CLIP_L),
            "tokenizer": ("transformers", "CLIPTokenizer", {}),
            "scheduler": ("diffusers", "LCMScheduler", BETAS),
        },
    ),
    "sdxl-turbo": (
        "StableDiffusionXLPipeline",
        {
            "unet": ("diffusers", "UNet2DConditionModel", SDXL_UNET),
            "vae": ("diffusers", "AutoencoderKL", {**VAE, "sample_size": 1024, "scaling_factor": 0.13025}),
            "text_encoder": ("transformers", "CLIPTextModel", CLIP_L),
            "text_encoder_2": ("transformers", "CLIPTextModelWithProjection", CLIP_G),
            "tokenizer": ("transformers", "CLIPTokenizer", {}),
            "tokenizer_2": ("transformers", "CLIPTokenizer", {}),
            "scheduler": TURBO,
        },
    ),
    "flux1-schnell": (
        "FluxPipeline",
        {
            "transformer": ("diffusers", "FluxTransformer2DModel", FLUX),
            "vae": ("diffusers", "AutoencoderKL", FLUX_VAE),
            "text_encoder": ("transformers", "CLIPTextModel", CLIP_L),
            "text_encoder_2": ("transformers", "T5EncoderModel", T5_XXL),
            "tokenizer": ("transformers", "CLIPTokenizer", {}),
            "tokenizer_2": ("transformers", "T5Tokenizer", {}),
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", {"shift": 1.0}),
        },
    ),
    "flux2-klein-4b": (
        "Flux2KleinPipeline",
        {
            "transformer": ("diffusers", "Flux2Transformer2DModel", FLUX2_KLEIN),
            "vae": ("diffusers", "AutoencoderKLFlux2", {}),
            "text_encoder": ("transformers", "Qwen3ForCausalLM", QWEN3_4B),
            "tokenizer": ("transformers", "Qwen2Tokenizer", {}),
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_dynamic_shifting": True}),
        },
    ),
    "z-image-turbo": (
        "ZImagePipeline",
        {
            "transformer": ("diffusers", "ZImageTransformer2DModel", {}),
            "vae": ("diffusers", "AutoencoderKL", FLUX_VAE),
            "text_encoder": ("transformers", "Qwen3Model", QWEN3_4B),
            "tokenizer": ("transformers", "Qwen2Tokenizer", {}),
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        },
    ),
}  # fmt: skip
SAID = {"flux2-klein-4b": {"is_distilled": True}}  # in model_index.json, beside the components


def on_meta(library: str, name: str, config: dict[str, Any]) -> torch.nn.Module:
    """The stock class on the meta device: names and shapes, no memory."""
    if library == "diffusers":
        import diffusers

        with torch.device("meta"):
            return getattr(diffusers, name).from_config({**config, "_class_name": name})
    import transformers

    model = getattr(transformers, name)
    with torch.device("meta"):
        return model(model.config_class(**config))


def shards(module: torch.nn.Module, dtype: torch.dtype) -> Iterator[dict[str, torch.Tensor]]:
    """Random tensors for every parameter, grouped into shards; tied parameters appear once."""
    generator, shard, size = torch.Generator().manual_seed(0), {}, 0
    for name, parameter in module.named_parameters():
        values = torch.empty(parameter.shape, dtype=dtype).normal_(0.0, 0.02, generator=generator)
        if "norm" in name and name.endswith("weight"):
            values += 1
        if size and size + values.nbytes > SHARD:
            yield shard
            shard, size = {}, 0
        shard[name] = values
        size += values.nbytes
    stored = module.state_dict()
    yield shard | {name: statistic(name, b) for name, b in module.named_buffers() if name in stored}


def statistic(name: str, buffer: torch.Tensor) -> torch.Tensor:
    """A batch norm's buffer before any training: variances one, all else zero."""
    make = torch.ones if name.endswith("var") else torch.zeros
    return make(buffer.shape, dtype=buffer.dtype)


def write_weights(module: torch.nn.Module, folder: Path, stem: str, dtype: torch.dtype) -> None:
    """One file, or numbered shards with an index, in the hub's layout."""
    files, weight_map = [], {}
    for i, shard in enumerate(shards(module, dtype)):
        path = folder / f"{stem}-{i + 1:05d}.safetensors"
        if type(module).__name__.startswith("CLIPText"):
            shard = {published(name): tensor for name, tensor in shard.items()}
        save_file(shard, path, {"format": "pt"})
        files.append(path)
        weight_map |= dict.fromkeys(shard, path.name)
    if len(files) == 1:
        files[0].rename(folder / f"{stem}.safetensors")
    else:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def write_component(folder: Path, library: str, name: str, config: dict[str, Any], dtype: torch.dtype) -> None:
    if name.endswith("Scheduler"):
        import diffusers

        getattr(diffusers, name)(**config).save_pretrained(folder)
        return
    module = on_meta(library, name, config)
    module.config.architectures = [name] if library == "transformers" else None
    if library == "diffusers":
        module.save_config(folder)
    else:
        module.config.save_pretrained(folder)
    write_weights(module, folder, "diffusion_pytorch_model" if library == "diffusers" else "model", dtype)
    print(f"{folder}: {sum(p.numel() for p in module.parameters()):,} parameters", flush=True)


def write_tokenizer(folder: Path, name: str) -> None:
    """CLIP's own vocabulary from open_clip's package; for T5 a small stand-in, as its vocabulary is on no registry."""
    from benchmarks import tokenizers_offline

    tokenizers_offline.BUILDERS[name]().save_pretrained(folder)


def write_model(model: str, output: Path, dtype: torch.dtype) -> None:
    pipeline, components = MODELS[model]
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.39.0", **SAID.get(model, {})}
    for component, (library, name, config) in components.items():
        folder = output / component
        folder.mkdir(parents=True, exist_ok=True)
        index[component] = [library, name]
        if name.endswith("Tokenizer"):
            write_tokenizer(folder, name)
        else:
            write_component(folder, library, name, config, dtype)
    (output / "model_index.json").write_text(json.dumps(index, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    given = parser.parse_args()
    write_model(given.model, given.output, getattr(torch, given.dtype))
