"""AutoencoderKL: the decoder, latent_sample -> sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Axis, Captured, Port, capture

if TYPE_CHECKING:
    import torch


def pixels_per_latent(config: dict[str, Any]) -> int:
    return 2 ** (len(config["block_out_channels"]) - 1)


def capture_decoder(config: dict[str, Any]) -> Captured:
    """Input: latent_sample float32 [B, C, h, w]. Output: sample float32 [B, 3, H, W], about -1..1."""
    size = config["sample_size"] // pixels_per_latent(config)
    latents = Port("latent_sample", (BATCH, config["latent_channels"], Axis("height", size), Axis("width", size)))
    return capture(lambda: wrapped(config), [latents], ["sample"])


def wrapped(config: dict[str, Any]) -> torch.nn.Module:
    import torch
    from diffusers import AutoencoderKL

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = AutoencoderKL.from_config(config)

        def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
            return self.network.decode(latent_sample, return_dict=False)[0]

    return Decoder()
