"""Fetch the three emoji sets from npm and rasterise the chosen concepts: `python -m training.drawings`."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path

import numpy as np

from training.captions import HERE, STYLES, Combination, concepts

CACHE = HERE / "cache"
PACKAGES = {"twemoji": "1.2.5", "noto": "1.2.9", "fluent-emoji-flat": "1.2.6"}
SIDE = 64
SIZES = (52, 56, 60)  # a drawing's side inside the 64-pixel canvas


def fetch(folder: Path) -> None:
    """Install the pinned icon packages below `folder` with npm (no scripts run)."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"@iconify-json/{name}@{version}" for name, version in PACKAGES.items()]
    subprocess.run(["npm", "install", "--ignore-scripts", "--prefix", str(folder), *wanted], check=True)


def rasterise(svg: str, size: int) -> np.ndarray:
    """An SVG document as premultiplied RGBA, uint8 [size, size, 4]."""
    import cairosvg
    from PIL import Image

    png = cairosvg.svg2png(bytestring=svg.encode(), output_width=size, output_height=size)
    rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"), np.float32)
    rgba[..., :3] *= rgba[..., 3:] / 255
    return np.round(rgba).astype(np.uint8)


def svg_of(icons: dict, name: str) -> str:
    icon = icons["icons"][name]
    width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'


def build(folder: Path = CACHE) -> Path:
    """Write `drawings.npz`: one uint8 array [concepts, styles, size, size, 4] for each size."""
    target = folder / "drawings.npz"
    if target.exists():
        return target
    fetch(folder / "npm")
    sets = {
        style: json.loads((folder / "npm/node_modules/@iconify-json" / package / "icons.json").read_text())
        for style, package in STYLES.items()
    }
    arrays = {
        str(size): np.stack([[rasterise(svg_of(sets[s], c), size) for s in STYLES] for c in concepts()])
        for size in SIZES
    }
    partial = target.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.rename(target)
    return target


class Drawings:
    """The rasterised concepts; `picture` composes one on its background."""

    def __init__(self, folder: Path = CACHE) -> None:
        with np.load(build(folder)) as stored:
            self.by_size = {int(size): stored[size] for size in stored.files}
        self.concept_index = {name: i for i, name in enumerate(concepts())}
        self.style_index = {name: i for i, name in enumerate(STYLES)}

    def picture(self, combination: Combination, rng: np.random.Generator) -> np.ndarray:
        """uint8 [64, 64, 3]; size and place are drawn from `rng`, at most 4 pixels off the centre."""
        size = int(rng.choice(SIZES))
        drawing = self.by_size[size][
            self.concept_index[combination.concept], self.style_index[combination.style]
        ].astype(np.float32)
        canvas = np.broadcast_to(np.float32(combination.color), (SIDE, SIDE, 3)).copy()
        room = (SIDE - size) // 2
        shift = min(room, 4)
        top, left = room + rng.integers(-shift, shift + 1, size=2)
        place = canvas[top : top + size, left : left + size]
        place[:] = drawing[..., :3] + place * (1 - drawing[..., 3:] / 255)
        return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    print(build())
