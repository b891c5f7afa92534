"""Names of a CLIP text encoder's tensors in a file that every version of transformers reads.

transformers 5.6 and later save CLIPTextModel without "text_model." and read both forms; versions before draw a
model's weights at random where the file lacks it, with a warning.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

PREFIX, OUTSIDE = "text_model.", "text_projection."


def published(name: str) -> str:
    return name if name.startswith((PREFIX, OUTSIDE)) else PREFIX + name


def rename_text_encoder(file: Path) -> None:
    """The same tensors under the names that all versions read."""
    partial = file.with_name(f".{file.name}.partial")
    save_file({published(name): tensor for name, tensor in load_file(file).items()}, partial, {"format": "pt"})
    partial.rename(file)
