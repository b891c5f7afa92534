"""uint8 pictures and their files: PNG with numpy and zlib alone, the rest with Pillow where it is installed."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from qsched_runtime.errors import RequestError
from qsched_runtime.request import MOST_PIXELS, check_room, integer


def to_uint8(decoded: np.ndarray) -> np.ndarray:
    """Decoder output float32 [B, 3, H, W] in -1..1 -> uint8 [B, H, W, 3], rounded as diffusers does."""
    unit = np.clip(decoded * np.float32(0.5) + np.float32(0.5), 0, 1)
    return np.round(unit.transpose(0, 2, 3, 1) * np.float32(255)).astype(np.uint8)


def from_uint8(images: np.ndarray) -> np.ndarray:
    """uint8 [B, H, W, 3] -> encoder input float32 [B, 3, H, W] in -1..1."""
    return images.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)


def png_bytes(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> an 8-bit RGB PNG."""
    height, width, _ = image.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pillow() -> Any:
    """PIL.Image; RequestError where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise RequestError("Pillow is not installed: pip install pillow, or write PNG") from error
    return Image


def pil_images(images: np.ndarray) -> list[Any]:
    """uint8 [B, H, W, 3] -> PIL images."""
    return [pillow().fromarray(image) for image in images]


def check_suffix(path: Path) -> None:
    """RequestError unless a picture can be written to a file of this name."""
    suffix = path.suffix.lower()
    if suffix == ".png":
        return
    if not suffix:
        raise RequestError(f"{str(path)!r} has no suffix: name a picture, such as {path.name or 'picture'}.png")
    if pillow().registered_extensions().get(suffix) not in pillow().SAVE:
        raise RequestError(f"a picture cannot be written as {suffix!r}: use .png, .jpg or .webp")


def write_image(path: Path, image: np.ndarray) -> None:
    """uint8 [H, W, 3] -> a file in the format of its suffix, under a temporary name and renamed."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(encoded(image, path.suffix.lower()))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def encoded(image: np.ndarray, suffix: str) -> bytes:
    if suffix == ".png":
        return png_bytes(image)
    buffer = io.BytesIO()
    pillow().fromarray(image).save(buffer, pillow().registered_extensions()[suffix], quality=95)
    return buffer.getvalue()


def read_image(path: Path) -> np.ndarray:
    """Any picture that Pillow reads, turned as its camera says -> uint8 [H, W, 3]; RequestError for what is none."""
    image = pillow()
    from PIL import ImageOps

    try:
        with image.open(path) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise RequestError(f"{str(path)!r} is no picture that can be read: {error}") from error


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [height, width, 3], by Pillow's Lanczos filter."""
    sides = integer("width", width, 1, MOST_PIXELS), integer("height", height, 1, MOST_PIXELS)
    check_room(1, *sides)
    return np.asarray(pillow().fromarray(image).resize(sides, pillow().Resampling.LANCZOS))
