"""The model's own decoder in torch, for gradients: latents -> pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qsched_runtime.manifest import LatentSpec

from qsched_edge.checkpoint.recipes import read_json
from qsched_edge.checkpoint.stock import with_defaults
from qsched_edge.checkpoint.weights import Weights, weight_files
from qsched_edge.lookup import lookup

if TYPE_CHECKING:
    import torch


WRAPPED = {"AutoencoderKLFlux2": "qsched_edge.capture.flux2:coder"}  # whose decoders do more than the class


class Decoder:
    """The diffusers autoencoder in `folder`, in full precision, as the bundle's decoder has it: latents [B, C, h, w] ->
    pictures float32 [B, 3, H, W] in 0..1."""

    def __init__(self, folder: Path, latents: LatentSpec, device: str = "cpu") -> None:
        from qsched_edge import torchvision_schema

        torchvision_schema.declare()
        import torch

        config = read_json(folder / "config.json")
        kind = config.get("_class_name", "AutoencoderTiny")
        wrapped = lookup(WRAPPED.get(kind, "qsched_edge.capture.autoencoder:wrapped"))
        coder = wrapped({**with_defaults(kind, config), "_class_name": kind}, "decode")
        weights, network = Weights(weight_files(folder)), coder.network
        network.load_state_dict({name: torch.from_numpy(weights[name]) for name in network.state_dict()})
        self.coder, self.latents = coder.to(device).eval().requires_grad_(False), latents

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        z = x / self.latents.scaling_factor + self.latents.shift_factor
        return (self.coder(z) / 2 + 0.5).clamp(0, 1)
