"""The model's own decoder in torch, for gradients: latents -> pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qsched_runtime.manifest import LatentSpec

from qsched_edge.checkpoint.recipes import read_json
from qsched_edge.checkpoint.weights import Weights, weight_files

if TYPE_CHECKING:
    import torch


class Decoder:
    """The diffusers autoencoder in `folder`, of either class, in full precision: latents [B, C, h, w] -> pictures
    float32 [B, 3, H, W] in 0..1."""

    def __init__(self, folder: Path, latents: LatentSpec, device: str = "cpu") -> None:
        from qsched_edge import torchvision_schema

        torchvision_schema.declare()
        import diffusers
        import torch

        config = read_json(folder / "config.json")
        kind = config.get("_class_name", "AutoencoderTiny")
        vae, weights = getattr(diffusers, kind).from_config(config), Weights(weight_files(folder))
        vae.load_state_dict({name: torch.from_numpy(weights[name]) for name in vae.state_dict()})
        self.vae, self.latents = vae.to(device).eval().requires_grad_(False), latents

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        z = x / self.latents.scaling_factor + self.latents.shift_factor
        return (self.vae.decode(z, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)
