"""Flux2Transformer2DModel and AutoencoderKLFlux2: what FLUX.2 does between patches and pictures is in their graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Axis, Captured, Port, capture

if TYPE_CHECKING:
    import torch


def capture_flux2(config: dict[str, Any], sequence_length: int) -> Captured:
    """Inputs: hidden_states float32 [B, C, h, w], patches of the autoencoder's latents; encoder_hidden_states [B, L,
    D]; timestep [B] in 0..1. Output: out_sample [B, C, h, w]. Positions are made in the graph."""
    inputs = [
        Port("hidden_states", (BATCH, config["in_channels"], Axis("height", 4), Axis("width", 6))),
        Port("encoder_hidden_states", (BATCH, sequence_length, config["joint_attention_dim"])),
        Port("timestep", (BATCH,)),
    ]
    return capture(lambda: denoiser(config), inputs, ["out_sample"])


def capture_decoder(config: dict[str, Any]) -> Captured:
    """Input: latent_sample float32 [B, 4 C, h, w], normalised patches. Output: sample float32 [B, 3, H, W]."""
    patches = Port("latent_sample", (BATCH, channels(config), Axis("height", 8), Axis("width", 6)))
    return capture(lambda: coder(config, "decode"), [patches], ["sample"])


def capture_encoder(config: dict[str, Any]) -> Captured:
    """Input: sample float32 [B, 3, H, W] in -1..1. Output: latent_sample [B, 4 C, h, w], the mean's patches."""
    factor = pixels_per_patch(config)
    pixels = Port("sample", (BATCH, 3, Axis("height", 2 * factor, factor), Axis("width", 3 * factor, factor)))
    return capture(lambda: coder(config, "encode"), [pixels], ["latent_sample"])


def channels(config: dict[str, Any]) -> int:
    height, width = config["patch_size"]
    return int(config["latent_channels"] * height * width)


def pixels_per_patch(config: dict[str, Any]) -> int:
    return int(2 ** (len(config["block_out_channels"]) - 1) * config["patch_size"][0])


def denoiser(config: dict[str, Any]) -> torch.nn.Module:
    import torch
    from diffusers import Flux2Transformer2DModel

    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Flux2Transformer2DModel.from_config(config)

        def forward(
            self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, timestep: torch.Tensor
        ) -> torch.Tensor:
            h, w = hidden_states.shape[2:]
            rows, columns = torch.arange(h)[:, None].expand(h, w), torch.arange(w)[None].expand(h, w)
            flat = (0 * rows, rows, columns, 0 * rows)
            tokens = torch.arange(encoder_hidden_states.shape[1])
            found = self.network(
                hidden_states=hidden_states.flatten(2).transpose(1, 2),
                encoder_hidden_states=encoder_hidden_states,
                timestep=timestep,
                img_ids=torch.stack([axis.reshape(-1) for axis in flat], dim=-1),
                txt_ids=torch.stack([0 * tokens, 0 * tokens, 0 * tokens, tokens], dim=-1),
                guidance=None,
                return_dict=False,
            )[0]
            return found.transpose(1, 2).unflatten(2, (h, w))

    return Denoiser()


def coder(config: dict[str, Any], direction: str) -> torch.nn.Module:
    """Patches of latents are normalised by the running statistics of the autoencoder's batch norm."""
    import torch
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline

    class Coder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = AutoencoderKLFlux2.from_config(config)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            norm = self.network.bn
            mean = norm.running_mean[None, :, None, None]
            deviation = torch.sqrt(norm.running_var[None, :, None, None] + config["batch_norm_eps"])
            if direction == "decode":
                latents = Flux2KleinPipeline._unpatchify_latents(x * deviation + mean)
                return self.network.decode(latents, return_dict=False)[0]
            latents = self.network.encode(x, return_dict=False)[0].mode()
            return (Flux2KleinPipeline._patchify_latents(latents) - mean) / deviation

    return Coder()
