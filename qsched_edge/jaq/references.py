"""A folder of reference pictures, with or without captions: what judges compare with in place of full precision's.

Pictures are PNG, JPEG or WebP files; captions stand in metadata.jsonl, a line {"file_name": ..., "text": ...} each, as
`datasets` reads them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsched_edge.errors import MetricError, MissingExtraError
from qsched_edge.installed import install_command

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
CAPTIONS = "metadata.jsonl"


@dataclass(frozen=True)
class References:
    """The files of a folder in their order, and the caption of each ("" where it has none)."""

    files: tuple[Path, ...]
    captions: tuple[str, ...]

    @classmethod
    def of_folder(cls, folder: Path) -> References:
        """Raises MetricError for a folder without pictures or captions that cannot be read."""
        files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
        if len(files) < 2:
            raise MetricError(f"{folder} holds {len(files)} reference pictures: give a folder of PNG, JPEG or WebP")
        texts = captions_in(folder / CAPTIONS)
        return cls(tuple(files), tuple(texts.get(file.name, "") for file in files))

    def square(self, side: int) -> np.ndarray:
        """All of them cut to a square and scaled: float32 [M, 3, side, side] in 0..1."""
        return np.stack([picture(file, side) for file in self.files])

    @property
    def pairs(self) -> list[tuple[Path, str]]:
        """(file, caption) of each."""
        return list(zip(self.files, self.captions, strict=True))

    def parts(self, size: int) -> list[References]:
        """The same pictures, `size` at a time."""
        starts = range(0, len(self.files), size)
        return [References(self.files[i : i + size], self.captions[i : i + size]) for i in starts]

    def of(self, caption: str) -> list[int]:
        """Which of them show `caption`."""
        return [i for i, text in enumerate(self.captions) if text == caption]


def captions_in(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        return {str(line["file_name"]): str(line["text"]) for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise MetricError(f"{path} is no list of captions ({error!r}): a line has file_name and text") from error


def picture(file: Path, side: int) -> np.ndarray:
    """float32 [3, side, side] in 0..1: the middle of the picture."""
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"reference pictures need Pillow: {install_command('evaluate')}") from error
    try:
        with Image.open(file) as opened:
            fitted = ImageOps.fit(opened.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    except OSError as error:
        raise MetricError(f"{file} cannot be read as a picture: {error}") from error
    return np.asarray(fitted, np.float32).transpose(2, 0, 1) / np.float32(255)
