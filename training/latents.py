"""Encode every training combination once, in a few sizes and places: `python -m training.latents`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from training import autoencoder, tokenizer
from training.captions import combinations
from training.drawings import CACHE, Drawings

VIEWS = 4
PATH = CACHE / "latents.safetensors"


@torch.no_grad()
def build() -> None:
    drawings, vae = Drawings(), autoencoder.load()
    seen = [c for c in combinations() if not c.held_out]
    latents = torch.empty(len(seen), VIEWS, 4, 16, 16, dtype=torch.float16)
    for view in range(VIEWS):
        rng = np.random.default_rng(view)
        for start in range(0, len(seen), 64):
            chosen = seen[start : start + 64]
            x = autoencoder.to_signed(np.stack([drawings.picture(c, rng) for c in chosen]))
            with torch.autocast("cpu", torch.bfloat16):
                latents[start : start + len(chosen), view] = vae.encode(x).latent_dist.mean.half()
    bpe = tokenizer.load()
    ids = bpe([c.caption for c in seen], padding="max_length", max_length=tokenizer.LENGTH, return_tensors="pt")
    scale = 1 / latents.float().std()
    save_file({"latents": latents, "ids": ids.input_ids.int(), "scaling_factor": scale.reshape(1)}, PATH)


@dataclass(frozen=True)
class Latents:
    """latents float16 [N, VIEWS, 4, 16, 16]; ids int32 [N, 24]; empty int64 [24]: the empty caption."""

    latents: torch.Tensor
    ids: torch.Tensor
    empty: torch.Tensor
    scaling_factor: float

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled latents float32 [size, 4, 16, 16] and token ids int64 [size, 24], drawn at random."""
        which, view = torch.randint(len(self.latents), (size,)), torch.randint(VIEWS, (size,))
        x0 = self.latents[which, view].float() * self.scaling_factor
        return x0.contiguous(memory_format=torch.channels_last), self.ids[which].long()


def load() -> Latents:
    if not PATH.exists():
        build()
    stored = load_file(PATH)
    empty = tokenizer.load()("", padding="max_length", max_length=tokenizer.LENGTH, return_tensors="pt").input_ids[0]
    return Latents(stored["latents"], stored["ids"], empty, stored["scaling_factor"].item())


if __name__ == "__main__":
    build()
    print(load().scaling_factor)
