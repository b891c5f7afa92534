"""FluxTransformer2DModel: packed latents, two text streams and position ids -> packed velocity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Axis, Captured, Port, capture

if TYPE_CHECKING:
    import torch


def capture_flux(config: dict[str, Any], sequence_length: int) -> Captured:
    """Inputs: hidden_states float32 [B, patches, in_channels], encoder_hidden_states [B, L, D], pooled_projections
    [B, P], timestep [B] in 0..1, img_ids [patches, 3], txt_ids [L, 3] and, for guidance-distilled models, guidance [B].
    """
    patches = Axis("patches", 256)
    inputs = [
        Port("hidden_states", (BATCH, patches, config["in_channels"])),
        Port("encoder_hidden_states", (BATCH, sequence_length, config["joint_attention_dim"])),
        Port("pooled_projections", (BATCH, config["pooled_projection_dim"])),
        Port("timestep", (BATCH,)),
        Port("img_ids", (patches, 3)),
        Port("txt_ids", (sequence_length, 3)),
    ]
    if config["guidance_embeds"]:
        inputs.append(Port("guidance", (BATCH,)))
    return capture(lambda: wrapped(config), inputs, ["out_hidden_states"])


def wrapped(config: dict[str, Any]) -> torch.nn.Module:
    import torch
    from diffusers import FluxTransformer2DModel

    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = FluxTransformer2DModel.from_config(config)

        def forward(
            self,
            hidden_states: torch.Tensor,
            encoder_hidden_states: torch.Tensor,
            pooled_projections: torch.Tensor,
            timestep: torch.Tensor,
            img_ids: torch.Tensor,
            txt_ids: torch.Tensor,
            guidance: torch.Tensor | None = None,
        ) -> torch.Tensor:
            return self.network(
                hidden_states=hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                pooled_projections=pooled_projections,
                timestep=timestep,
                img_ids=img_ids,
                txt_ids=txt_ids,
                guidance=guidance,
                return_dict=False,
            )[0]

    return Denoiser()
