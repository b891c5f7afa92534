"""The four cells {full precision, quantized} x {c = 1, calibrated}: same prompts, same noise, judged alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from qsched_runtime import Sampler
from qsched_runtime.image import to_uint8

from qsched_edge import noise
from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.jaq.judges import Drawn, Look
from qsched_edge.jaq.panel import Panel, together

CELL_BATCH = 16  # pictures drawn and judged together
PIXELS = 2**20  # the most of them: a picture of 1024 x 1024 is drawn alone
CELL, IMAGES, LATENTS = "cell.npz", "images.npy", "latents.npy"


@dataclass(frozen=True)
class Cell:
    """What each judge said of a cell's pictures, prompt by prompt with all its seeds, by the judge's name; pictures
    uint8 [shown, H, W, 3] of the first prompts at the first seed."""

    looks: Mapping[str, Look]
    pictures: np.ndarray

    def save(self, path: Path) -> None:
        values = {f"value|{judge}|{m}": v for judge, look in self.looks.items() for m, v in look.values.items()}
        features = {f"features|{name}": k.features for name, k in self.looks.items() if k.features is not None}
        np.savez_compressed(path, pictures=self.pictures, **values, **features)

    @classmethod
    def load(cls, path: Path) -> Cell:
        values: dict[str, dict[str, np.ndarray]] = {}
        features: dict[str, np.ndarray] = {}
        with np.load(path, allow_pickle=False) as stored:
            for name in stored.files:
                kind, *rest = name.split("|")
                if kind == "value":
                    values.setdefault(rest[0], {})[rest[1]] = stored[name]
                elif kind == "features":
                    features[rest[0]] = stored[name]
            looks = {judge: Look(values.get(judge, {}), features.get(judge)) for judge in {**values, **features}}
            return cls(looks, stored["pictures"])


@dataclass(frozen=True)
class Asked:
    """Which prompts are drawn, each with how many `seeds`, who judges them and how many are `shown`."""

    panel: Panel
    prompts: tuple[str, ...]
    seeds: int
    shown: int

    def batches(self, pixels: int) -> Iterator[slice]:
        """Of all prompts' noises, prompt by prompt; `pixels` are one picture's."""
        count, size = len(self.prompts) * self.seeds, min(CELL_BATCH, max(1, PIXELS // pixels))
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def jobs(self, batch: slice) -> list[tuple[int, int]]:
        """Prompt and noise of every picture."""
        return [divmod(i, self.seeds) for i in range(batch.start, batch.stop)]


def last_latents(
    sampler: Sampler, prompts: Sequence[str], seeds: Sequence[int], schedule: LearnedSchedule
) -> np.ndarray:
    """float32 [B, C, h, w]: what the sampler ends with, not yet decoded."""
    streams = sampler.streams(seeds, len(prompts))
    *_, last = sampler.trajectory(sampler.condition(prompts), schedule.folded(), streams)
    return last.x_next


def write_cell(
    sampler: Sampler, schedule: LearnedSchedule, folder: Path, asked: Asked, advance: Callable[[int], None],
    beside: Path | None = None,
) -> None:  # fmt: skip
    """Draw every prompt with every seed and judge the pictures beside those of the cell at `beside`; a cell without one
    keeps its pictures in `folder`, for itself and for the others."""
    looks, shown = [], []
    kept = Kept(beside or folder)
    for batch in asked.batches(pixels_of(sampler)):
        some = asked.jobs(batch)
        texts = [asked.prompts[p] for p, _ in some]
        latents = last_latents(sampler, texts, [noise.reporting(s, p) for p, s in some], schedule)
        decoded = sampler.decode(latents)
        if beside is None:
            kept.keep(batch, to_uint8(decoded), latents, len(asked.prompts) * asked.seeds)
        unit = np.clip(decoded / 2 + 0.5, 0, 1)
        looks.append(asked.panel.look(Drawn(unit, texts, latents, kept.drawn(batch, texts))))
        shown.append(to_uint8(decoded[[i for i, (p, s) in enumerate(some) if s == 0 and p < asked.shown]]))
        advance(len(some))
    kept.close()
    Cell(together(looks), np.concatenate(shown)).save(folder / CELL)


def pixels_of(sampler: Sampler) -> int:
    """One picture's."""
    spec = sampler.manifest.latents
    return spec.height * spec.width * spec.pixels_per_latent**2


class Kept:
    """The pictures uint8 [N, H, W, 3] and last latents float32 [N, C, h, w] of a cell, in files of its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrays: dict[str, np.memmap] = {}

    def keep(self, batch: slice, images: np.ndarray, latents: np.ndarray, count: int) -> None:
        for name, found in ((IMAGES, images), (LATENTS, latents)):
            if name not in self.arrays:
                shape = (count, *found.shape[1:])
                self.arrays[name] = np.lib.format.open_memmap(self.folder / name, "w+", found.dtype, shape)
            self.arrays[name][batch] = found

    def drawn(self, batch: slice, prompts: Sequence[str]) -> Drawn:
        """As a judge looks at them."""
        for name in (IMAGES, LATENTS):
            if name not in self.arrays:
                self.arrays[name] = np.load(self.folder / name, mmap_mode="r")
        images = self.arrays[IMAGES][batch].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        return Drawn(images, prompts, np.array(self.arrays[LATENTS][batch]))

    def close(self) -> None:
        self.arrays.clear()
