"""uint8 pictures and PNG files, with numpy and zlib alone."""

from __future__ import annotations

import struct
import zlib

import numpy as np


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
