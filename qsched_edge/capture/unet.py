"""UNet2DConditionModel: (sample, timestep, encoder_hidden_states, conditioning) -> out_sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Axis, Captured, Port, capture

if TYPE_CHECKING:
    import torch

TIME_IDS = 6  # original height and width, crop corner, target height and width


def multiple_of(config: dict[str, Any]) -> int:
    """Latent height and width must be multiples of this: one halving for each level but the last."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def capture_unet(config: dict[str, Any], sequence_length: int) -> Captured:
    """Inputs: sample float32 [B, C, h, w], timestep float32 [1], encoder_hidden_states float32 [B, L, D]; where the
    model embeds its guidance timestep_cond [B, time_cond_proj_dim]; for SDXL text_embeds [B, P] and time_ids [B, 6]."""
    multiple, extra = multiple_of(config), []
    side = max(8, 2 * multiple)  # the deepest level must be traced with more than one position: torch fixes ones
    if config["addition_embed_type"] == "text_time":
        pooled = config["projection_class_embeddings_input_dim"] - TIME_IDS * config["addition_time_embed_dim"]
        extra += [Port("text_embeds", (BATCH, pooled)), Port("time_ids", (BATCH, TIME_IDS))]
    if config["time_cond_proj_dim"]:
        extra.append(Port("timestep_cond", (BATCH, config["time_cond_proj_dim"])))
    inputs = [
        Port("sample", (BATCH, config["in_channels"], Axis("height", side, multiple), Axis("width", side, multiple))),
        Port("timestep", (1,)),
        Port("encoder_hidden_states", (BATCH, sequence_length, config["cross_attention_dim"])),
        *extra,
    ]
    return capture(lambda: wrapped(config, [port.name for port in extra]), inputs, ["out_sample"])


def wrapped(config: dict[str, Any], extra: list[str]) -> torch.nn.Module:
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
            states: torch.Tensor,
            first: torch.Tensor | None = None,
            second: torch.Tensor | None = None,
            third: torch.Tensor | None = None,
        ) -> torch.Tensor:
            given = dict(zip(extra, (first, second, third), strict=False))
            condition = given.pop("timestep_cond", None)
            added = given or None
            return self.network(
                sample, timestep, states, timestep_cond=condition, added_cond_kwargs=added, return_dict=False
            )[0]

    return Denoiser()
