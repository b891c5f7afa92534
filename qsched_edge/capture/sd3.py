"""SD3Transformer2DModel: latents, two kinds of text states and pooled text -> velocity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Axis, Captured, Port, capture

if TYPE_CHECKING:
    import torch


def capture_sd3(config: dict[str, Any], clip: tuple[int, int], t5_length: int) -> Captured:
    """`clip` is (tokens, width) of both CLIP encoders' states side by side, `t5_length` the tokens of T5.

    Inputs: hidden_states float32 [B, C, h, w], clip_states [B, tokens, width], t5_states [B, t5_length, D],
    pooled_projections [B, P], timestep [B] in 0..1000. The graph puts the text states one after the other, CLIP's
    filled up with zeros to T5's width, as StableDiffusion3Pipeline does.
    """
    side, patch = config["sample_size"], config["patch_size"]
    latents = (Axis("height", side // patch, patch), Axis("width", side // patch, patch))
    inputs = [
        Port("hidden_states", (BATCH, config["in_channels"], *latents)),
        Port("clip_states", (BATCH, *clip)),
        Port("t5_states", (BATCH, t5_length, config["joint_attention_dim"])),
        Port("pooled_projections", (BATCH, config["pooled_projection_dim"])),
        Port("timestep", (BATCH,)),
    ]
    return capture(lambda: wrapped(config), inputs, ["out_sample"])


def wrapped(config: dict[str, Any]) -> torch.nn.Module:
    import torch
    from diffusers import SD3Transformer2DModel

    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = SD3Transformer2DModel.from_config(config)

        def forward(
            self,
            hidden_states: torch.Tensor,
            clip_states: torch.Tensor,
            t5_states: torch.Tensor,
            pooled_projections: torch.Tensor,
            timestep: torch.Tensor,
        ) -> torch.Tensor:
            filled = torch.nn.functional.pad(clip_states, (0, t5_states.shape[-1] - clip_states.shape[-1]))
            states = torch.cat([filled, t5_states], dim=1)
            return self.network(hidden_states, states, pooled_projections, timestep, return_dict=False)[0]

    return Denoiser()
