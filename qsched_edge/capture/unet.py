"""UNet2DConditionModel: (sample, timestep, encoder_hidden_states[, timestep_cond]) -> out_sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Axis, Captured, Port, capture

if TYPE_CHECKING:
    import torch


def multiple_of(config: dict[str, Any]) -> int:
    """Latent height and width must be multiples of this: one halving for each level but the last."""
    return 2 ** (len(config["block_out_channels"]) - 1)


def capture_unet(config: dict[str, Any], sequence_length: int) -> Captured:
    """Inputs: sample float32 [B, C, h, w], timestep float32 [1], encoder_hidden_states float32 [B, L, D] and, where
    the model embeds its guidance, timestep_cond float32 [B, time_cond_proj_dim]."""
    multiple = multiple_of(config)
    size = config["sample_size"] or 64
    inputs = [
        Port("sample", (BATCH, config["in_channels"], Axis("height", size, multiple), Axis("width", size, multiple))),
        Port("timestep", (1,)),
        Port("encoder_hidden_states", (BATCH, sequence_length, config["cross_attention_dim"])),
    ]
    if config.get("time_cond_proj_dim"):
        inputs.append(Port("timestep_cond", (BATCH, config["time_cond_proj_dim"])))
    return capture(lambda: wrapped(config), inputs, ["out_sample"])


def wrapped(config: dict[str, Any]) -> torch.nn.Module:
    import torch
    from diffusers import UNet2DConditionModel

    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = UNet2DConditionModel.from_config(config)

        def forward(
            self,
            sample: torch.Tensor,
            timestep: torch.Tensor,
            encoder_hidden_states: torch.Tensor,
            timestep_cond: torch.Tensor | None = None,
        ) -> torch.Tensor:
            return self.network(
                sample, timestep, encoder_hidden_states, timestep_cond=timestep_cond, return_dict=False
            )[0]

    return Denoiser()
