"""The many-step teacher, a v-prediction latent diffusion model: `python -m training.teacher`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from training import latents, tokenizer
from training.loop import FIRST, Settings, averaged, train

SETTINGS = Settings("teacher", steps=3000, learning_rate=4e-4, warmup=100, cooldown=0.6, ema=0.998)
BATCH = 32
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


@torch.no_grad()
def states_of(ids: torch.Tensor) -> torch.Tensor:
    """float32 [N, 24, 192]: what the text encoder, which is no longer trained, makes of token ids [N, 24]."""
    encoder = text_encoder()
    return torch.cat([encoder(some.long()).last_hidden_state for some in ids.split(256)])


def text_encoder() -> CLIPTextModel:
    """The first model's: it knows every caption already."""
    encoder, stored = build_text_encoder(), load_file(FIRST / "text_encoder/model.safetensors")
    encoder.load_state_dict({name: stored[name.removeprefix("text_model.")].float() for name in encoder.state_dict()})
    return encoder.eval().requires_grad_(False)


def start() -> UNet2DConditionModel:
    """The first model's U-Net without its input for the guidance scale: it draws, and is trained on from there."""
    unet, stored = build_unet(), load_file(FIRST / "unet/diffusion_pytorch_model.safetensors")
    unet.load_state_dict({name: stored[name].float() for name in unet.state_dict()})
    return unet.to(memory_format=torch.channels_last)


def main() -> None:
    torch.manual_seed(0)
    model, data, schedule = start(), latents.load(), DDIMScheduler(**SCHEDULE)
    captions, empty = states_of(data.ids), states_of(data.empty[None])

    def loss_of(step: int) -> torch.Tensor:
        x0, which = data.batch(BATCH)
        states = captions[which]
        states[torch.rand(BATCH) < EMPTY_SHARE] = empty
        t = ((torch.arange(BATCH) + torch.rand(BATCH)) * (1000 / BATCH)).long()  # spread evenly in every batch
        noise = torch.randn_like(x0)
        v = model(schedule.add_noise(x0, noise, t), t, states).sample
        return F.mse_loss(v.float(), schedule.get_velocity(x0, noise, t))

    train(SETTINGS, model, loss_of)


def load() -> UNet2DConditionModel:
    model = build_unet()
    model.load_state_dict(averaged(SETTINGS.name))
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
