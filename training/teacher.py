"""The many-step teacher, a v-prediction latent diffusion model: `python -m training.teacher`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from training import latents, tokenizer
from training.loop import Settings, averaged, train

SETTINGS = Settings("teacher", steps=5800, learning_rate=6e-4, warmup=300, cooldown=0.274, ema=0.999)
BATCH = 64
EMPTY_SHARE = 0.1
WIDTH = 192
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
}


def build_unet(time_cond_proj_dim: int | None = None) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 160, 192),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # the number of heads, by diffusers' historical naming
        time_cond_proj_dim=time_cond_proj_dim,
    )


def build_text_encoder() -> CLIPTextModel:
    bpe = tokenizer.load()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(bpe),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.LENGTH,
            bos_token_id=bpe.bos_token_id,
            eos_token_id=bpe.eos_token_id,
            pad_token_id=bpe.pad_token_id,
        )
    )


def build() -> nn.ModuleDict:
    """U-Net and text encoder, which learn together."""
    return nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder()})


def main() -> None:
    torch.manual_seed(0)
    model = build()
    model["unet"].to(memory_format=torch.channels_last)
    data, schedule = latents.load(), DDIMScheduler(**SCHEDULE)

    def loss_of(step: int) -> torch.Tensor:
        x0, ids = data.batch(BATCH)
        ids[torch.rand(BATCH) < EMPTY_SHARE] = data.empty
        t, noise = torch.randint(1000, (BATCH,)), torch.randn_like(x0)
        states = model["text_encoder"](ids).last_hidden_state
        v = model["unet"](schedule.add_noise(x0, noise, t), t, states).sample
        return F.mse_loss(v.float(), schedule.get_velocity(x0, noise, t))

    train(SETTINGS, model, loss_of)


def load() -> nn.ModuleDict:
    model = build()
    model.load_state_dict(averaged(SETTINGS.name))
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    print({k: round(sum(p.numel() for p in m.parameters()) / 1e6, 2) for k, m in build().items()}, "M parameters")
    main()
