"""Textual inversion (arXiv 2208.01618): words with rows of their own in a text encoder's table of tokens.

Files are read as diffusers saves them, {word: tensor [D] or [vectors, D]}, and as AUTOMATIC1111 does, `emb_params` with
the file's name as its word; for SDXL `clip_l` and `clip_g`, the rows of its two encoders. A word of several vectors
becomes several tokens, WORD, WORD_1, WORD_2 ..., as in diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsched_edge.checkpoint import hub
from qsched_edge.checkpoint.model import ModelSpec
from qsched_edge.checkpoint.recipe_file import word_and_file
from qsched_edge.checkpoint.weights import Weights
from qsched_edge.errors import RecipeError, WeightsError

READ_BY = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline", "StableDiffusionXLPipeline")
ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
UNNAMED = (*ENCODERS, "emb_params")  # keys that are no words
DEFAULT_FILE = "learned_embeds"  # as diffusers saves it into a folder or repository
PICKLED = (".pt", ".bin", ".pth", ".ckpt")
TABLE = "token_embedding.weight"  # how CLIP's table of tokens ends


@dataclass(frozen=True)
class Learned:
    """One word's rows for one text encoder: float32 [vectors, D] under `key` of `file`."""

    word: str
    file: Path
    key: str
    vectors: int

    @property
    def tokens(self) -> list[str]:
        return [self.word, *(f"{self.word}_{i}" for i in range(1, self.vectors))]

    def rows(self) -> np.ndarray:
        found = Weights([self.file])[self.key]
        return found.reshape(self.vectors, -1)


class LearnedRows(Weights):
    """`base` with `rows` by token id in its table of tokens, which grows by as many; all else streams unchanged."""

    def __init__(self, base: Weights, rows: Mapping[int, np.ndarray]) -> None:
        # No super().__init__: `base` holds the files, and every method that reads is its own here.
        self.prefixes, self.aliases = base.prefixes, base.aliases
        self.base, self.learned = base, dict(rows)

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shape(name)
        return self.rows(name, 0, shape[0]) if shape else self.base[name]

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        if not name.endswith(TABLE):
            return self.base.rows(name, start, stop)
        known, width = self.base.shape(name)
        found = np.zeros((stop - start, width), np.float32)
        if start < known:
            old = self.base.rows(name, start, min(stop, known))
            found[: len(old)] = old
        for i, row in self.learned.items():
            if start <= i < stop:
                found[i - start] = row
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.base.shape(name)
        return (shape[0] + len(self.learned), *shape[1:]) if name.endswith(TABLE) else shape

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


def learned(spec: ModelSpec, component: str) -> tuple[Learned, ...]:
    """The recipe's words that have rows for that component, by their files' headers."""
    texts = named(spec) if component in ENCODERS.values() else ()
    return tuple(found for text in texts for found in words_of(spec, text)[component])


def inversion_files(spec: ModelSpec) -> list[Path]:
    return [inversion_file(spec, word_and_file(text)[1]) for text in named(spec)]


def named(spec: ModelSpec) -> tuple[str, ...]:
    """FILE or WORD=FILE, as the recipe says; RecipeError for a pipeline that reads none."""
    texts = spec.recipe.textual_inversion
    if texts and spec.pipeline not in READ_BY:
        raise RecipeError(f"textual_inversion {texts[0]!r}: {spec.pipeline} reads none, {', '.join(READ_BY)} do")
    return texts


def words_of(spec: ModelSpec, text: str) -> dict[str, list[Learned]]:
    """What FILE or WORD=FILE brings to each text encoder."""
    word, name = word_and_file(text)
    file = inversion_file(spec, name)
    widths = {name: spec.config(name)["hidden_size"] for name in ENCODERS.values() if name in spec.index}
    found: dict[str, list[Learned]] = {component: [] for component in widths}
    weights = Weights([file])
    if len(weights) > 1 and not set(weights) <= ENCODERS.keys():
        raise WeightsError(f"{file.name} has the keys {', '.join(list(weights)[:3])}: a textual inversion has one word")
    for key in weights:
        shape = weights.shape(key)
        component = component_of(file, key, shape, widths)
        own = file.stem if key in UNNAMED else key
        found[component].append(Learned(word.removesuffix("=") or own, file, key, shape[0] if shape[1:] else 1))
    return found


def component_of(file: Path, key: str, shape: tuple[int, ...], widths: Mapping[str, int]) -> str:
    """The text encoder that rows of this shape are for: the one that the key names, else the first of this width."""
    meant = ENCODERS.get(key)
    fitting = [name for name, width in widths.items() if meant in (None, name) and shape[-1:] == (width,)]
    if not fitting or len(shape) > 2 or 0 in shape:
        known = ", ".join(f"{name}'s has {width}" for name, width in widths.items())
        raise WeightsError(f"{file.name}: {key} {list(shape)} fits no row of a table of tokens here ({known} numbers)")
    return fitting[0]


def inversion_file(spec: ModelSpec, name: str) -> Path:
    """The safetensors file that `name` means: a path, a folder or repository with learned_embeds, or a file in one."""
    path, repository = spec.recipe.path(name), hub.hub_id(name)
    whole = path.is_dir() or (not path.exists() and repository is not None and not repository.file)
    wanted = f"{name}/{DEFAULT_FILE}.safetensors" if whole else name
    pickled = Path(wanted).suffix.lower() in PICKLED or (
        path.is_dir() and (path / f"{DEFAULT_FILE}.bin").exists() and not spec.recipe.path(wanted).exists()
    )
    if pickled:
        raise WeightsError(f"textual inversion {name}: it is pickled, which can run code: give it as safetensors")
    return spec.locate(wanted)
