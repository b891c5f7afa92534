"""Miniatures of the real pipeline classes with random weights, saved by diffusers."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from conftest import TOKENIZER

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def clip_tokenizer():  # type: ignore[no-untyped-def]
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(TOKENIZER)


def clip_text(projection: int = 0, width: int = 32, layers: int = 3):  # type: ignore[no-untyped-def]
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        projection_dim=projection or width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def vae(channels: int = 4, levels: int = 2, **settings):  # type: ignore[no-untyped-def]
    from diffusers import AutoencoderKL

    return AutoencoderKL(**coder_settings(channels, levels), **settings)


def coder_settings(channels: int = 4, levels: int = 2) -> dict[str, Any]:
    """Of the smallest autoencoder with so many levels."""
    return {
        "block_out_channels": (32,) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 1,
        "latent_channels": channels,
        "norm_num_groups": 8,
        "sample_size": 16,
    }


def tiny_vae(channels: int = 4):  # type: ignore[no-untyped-def]
    from diffusers import AutoencoderTiny

    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    widths = {"encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16)}
    return AutoencoderTiny(latent_channels=channels, **blocks, **widths)


def unet(cross: int, **settings):  # type: ignore[no-untyped-def]
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=2,
        **settings,
    )


def stable_diffusion(scheduler):  # type: ignore[no-untyped-def]
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae(), clip_text(), clip_tokenizer(), unet(32), scheduler, None, None, requires_safety_checker=False
    )


def latent_consistency():  # type: ignore[no-untyped-def]
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    network = unet(32, time_cond_proj_dim=16)
    return LatentConsistencyModelPipeline(
        vae(), clip_text(), clip_tokenizer(), network, LCMScheduler(**BETAS), None, None, requires_safety_checker=False
    )


def stable_diffusion_xl(scheduler, layers: int = 3):  # type: ignore[no-untyped-def]
    """`layers` of the second text encoder: diffusers tells a single file of SDXL by the tenth."""
    from diffusers import StableDiffusionXLPipeline

    pooled, ids = 24, 8
    network = unet(
        32 + 48,
        addition_embed_type="text_time",
        addition_time_embed_dim=ids,
        projection_class_embeddings_input_dim=pooled + 6 * ids,
        use_linear_projection=True,
    )
    tokenizer = clip_tokenizer()
    return StableDiffusionXLPipeline(
        vae(),
        clip_text(),
        clip_text(pooled, 48, layers),
        tokenizer,
        tokenizer,
        network,
        scheduler,
        add_watermarker=False,
    )


def save(pipeline, folder: Path) -> Path:  # type: ignore[no-untyped-def]
    pipeline.save_pretrained(folder)
    return folder


def flux(**scheduler):  # type: ignore[no-untyped-def]
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    from benchmarks.tokenizers_offline import t5

    tokenizer_2 = t5()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    t5_config = T5Config(
        vocab_size=len(tokenizer_2),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return FluxPipeline(
        FlowMatchEulerDiscreteScheduler(**scheduler),
        vae(scaling_factor=0.36, shift_factor=0.12, use_quant_conv=False, use_post_quant_conv=False),
        clip_text(),
        clip_tokenizer(),
        T5EncoderModel(t5_config),
        tokenizer_2,
        transformer,
    )


def stable_diffusion_3():  # type: ignore[no-untyped-def]
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import T5Config, T5EncoderModel

    from benchmarks.tokenizers_offline import t5

    tokenizer, tokenizer_3 = clip_tokenizer(), t5()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=96,
        caption_projection_dim=32,
        pooled_projection_dim=24 + 20,
        out_channels=4,
        pos_embed_max_size=24,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    t5_config = T5Config(
        vocab_size=len(tokenizer_3),
        d_model=96,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return StableDiffusion3Pipeline(
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae(scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        clip_text(24),
        tokenizer,
        clip_text(20, 48),
        tokenizer,
        T5EncoderModel(t5_config),
        tokenizer_3,
    )


def save_lora(pipeline, file: Path) -> None:  # type: ignore[no-untyped-def]
    """A random LoRA on the attention layers of the U-Net, in diffusers' own layout."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    pipeline.unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False))
    layers = get_peft_model_state_dict(pipeline.unet)
    metadata = {"unet_lora_adapter_metadata": pipeline.unet.peft_config["default"].to_dict()}
    type(pipeline).save_lora_weights(file.parent, unet_lora_layers=layers, weight_name=file.name, **metadata)


def qwen3(words: int, layers: int):  # type: ignore[no-untyped-def]
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=words,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def read_first_layers(pipeline) -> None:  # type: ignore[no-untyped-def]
    """Let FLUX.2's pipeline read states 1, 2 and 3 of its text encoder: the default in its signature, 9, 18 and 27, is
    the only place that says which, and 27 layers take a minute to trace."""
    call = inspect.unwrap(pipeline.__call__)
    call.__defaults__ = tuple((1, 2, 3) if value == (9, 18, 27) else value for value in call.__defaults__)


def amplify(transformer) -> None:  # type: ignore[no-untyped-def]
    """Make text and time count: random weights as they are tell two prompts apart by less than 1 of 255."""
    modulations = (
        transformer.double_stream_modulation_img,
        transformer.double_stream_modulation_txt,
        transformer.single_stream_modulation,
    )
    with torch.no_grad():
        for layer in (*(m.linear for m in modulations), transformer.norm_out.linear):
            layer.weight.mul_(8)
        for block in transformer.transformer_blocks:
            block.attn.to_out[0].weight.mul_(4)
            block.attn.add_v_proj.weight.mul_(4)
        for block in transformer.single_transformer_blocks:
            block.attn.to_out.weight.mul_(4)
        transformer.proj_out.weight.mul_(3)


def flux2_klein():  # type: ignore[no-untyped-def]
    from diffusers import (
        AutoencoderKLFlux2,
        FlowMatchEulerDiscreteScheduler,
        Flux2KleinPipeline,
        Flux2Transformer2DModel,
    )

    from benchmarks.tokenizers_offline import qwen2

    read_first_layers(Flux2KleinPipeline)
    tokenizer = qwen2()
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    amplify(transformer)
    autoencoder = AutoencoderKLFlux2(**coder_settings())
    generator = torch.Generator().manual_seed(1)
    autoencoder.bn.running_mean.normal_(0, 0.3, generator=generator)
    autoencoder.bn.running_var.uniform_(0.5, 2.0, generator=generator)
    return Flux2KleinPipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        autoencoder,
        qwen3(len(tokenizer), 4),
        tokenizer,
        transformer,
        is_distilled=True,
    )


def z_image():  # type: ignore[no-untyped-def]
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    from benchmarks.tokenizers_offline import qwen2

    tokenizer = qwen2()
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=(8, 4, 4),
        axes_lens=(256, 32, 32),
    )
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    return ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae(scaling_factor=0.36, shift_factor=0.12, use_quant_conv=False, use_post_quant_conv=False),
        qwen3(len(tokenizer), 3).model,
        tokenizer,
        transformer,
    )
