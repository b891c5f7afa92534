"""AutoencoderKL and AutoencoderTiny: the decoder, latent_sample -> sample, and the encoder, sample -> latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsched_edge.capture.graph import BATCH, Axis, Captured, Port, capture

if TYPE_CHECKING:
    import torch

CLASSES = ("AutoencoderKL", "AutoencoderTiny")


def pixels_per_latent(config: dict[str, Any]) -> int:
    tiny = config["_class_name"] == "AutoencoderTiny"
    return int(2 ** (len(config["decoder_block_out_channels" if tiny else "block_out_channels"]) - 1))


def capture_decoder(config: dict[str, Any]) -> Captured:
    """Input: latent_sample float32 [B, C, h, w]. Output: sample float32 [B, 3, H, W], about -1..1."""
    latents = Port("latent_sample", (BATCH, config["latent_channels"], Axis("height", 8), Axis("width", 8)))
    return capture(lambda: wrapped(config, "decode"), [latents], ["sample"])


def capture_encoder(config: dict[str, Any]) -> Captured:
    """Input: sample float32 [B, 3, H, W] in -1..1. Output: of AutoencoderKL latent_parameters float32 [B, 2 C, h, w],
    mean and log variance; of AutoencoderTiny latent_sample [B, C, h, w]."""
    factor = pixels_per_latent(config)
    pixels = Port("sample", (BATCH, 3, Axis("height", 8, factor), Axis("width", 8, factor)))
    output = "latent_parameters" if config["_class_name"] == "AutoencoderKL" else "latent_sample"
    return capture(lambda: wrapped(config, "encode"), [pixels], [output])


def wrapped(config: dict[str, Any], direction: str) -> torch.nn.Module:
    import diffusers
    import torch

    class Coder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = getattr(diffusers, config["_class_name"]).from_config(config)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            coded = getattr(self.network, direction)(x, return_dict=False)[0]
            return coded.parameters if hasattr(coded, "parameters") else coded

    return Coder()
