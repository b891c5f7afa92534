"""Assemble `models/emoji`, a standard diffusers folder in fp16: `python -m training.publish`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from diffusers import LatentConsistencyModelPipeline

from training import autoencoder, latents, student, teacher, tokenizer
from training.captions import HERE
from training.names import rename_text_encoder

TARGET = HERE.parent / "models/emoji"


def pipeline(unet=None) -> LatentConsistencyModelPipeline:
    """The trained student (or another U-Net) as a stock pipeline."""
    vae = autoencoder.load()
    vae.register_to_config(scaling_factor=latents.load().scaling_factor)
    return LatentConsistencyModelPipeline(
        vae=vae,
        text_encoder=teacher.load()["text_encoder"],
        tokenizer=tokenizer.load(),
        unet=student.load() if unet is None else unet,
        scheduler=student.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main(target: Path = TARGET) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipeline().to(torch.float16).save_pretrained(partial)
    rename_text_encoder(partial / "text_encoder/model.safetensors")
    for kept in ("README.md", "LICENSES", "assessment.json", "grid.png"):
        if (target / kept).exists():
            shutil.move(target / kept, partial / kept)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    print(target, sum(f.stat().st_size for f in target.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
