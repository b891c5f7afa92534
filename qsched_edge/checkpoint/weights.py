"""Safetensors files as a lazy map from tensor names to arrays; one tensor is in memory at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qsched_edge.errors import WeightsError

STEMS = ("diffusion_pytorch_model", "model")
# today's name of a sharded variant's index, and those that earlier versions wrote
INDEXES = (
    "{stem}.safetensors.index{dot}.json",
    "{stem}.safetensors{dot}.index.json",
    "{stem}{dot}.safetensors.index.json",
)
# diffusers' AttentionBlock (VAEs of 2022) -> the Attention that replaced it, as ModelMixin renames it on load
DEPRECATED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
DEPRECATED_KEY = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")


class WeightSource(Protocol):
    """What a quantizer asks of weights: their shapes, and float32 rows of one at a time."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def rows(self, name: str, start: int, stop: int) -> np.ndarray: ...


class Weights(Mapping[str, np.ndarray]):
    """`weights[name]` reads one tensor as float32, `rows` a part of one.

    `prefixes` stand before the names in some files but not in the architecture (older text encoders: "text_model.");
    `aliases` are other names of tensors that a model shares between layers. Attention layers are named as today,
    whatever the file calls them. Files are opened for each read and closed again: a mapping that stays open would keep
    every page it has touched in the process's memory.
    """

    def __init__(
        self, files: list[Path], prefixes: Sequence[str] = (), aliases: Mapping[str, str] | None = None
    ) -> None:
        self.prefixes, self.aliases = ("", *prefixes), dict(aliases or {})
        self._files: dict[str, tuple[Path, str]] = {}  # name -> file and the key there
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            with opened(file) as shard:
                for key in shard.keys():  # noqa: SIM118 (not a mapping)
                    name = present_name(key)
                    if name == key or name not in self._files:
                        self._files[name] = file, key
                        self._shapes[name] = tuple(shard.get_slice(key).get_shape())

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.shape(name)
        return self.rows(name, 0, shape[0]) if shape else self._read(name, ...)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """float32 copy of rows `start` to `stop` of the first axis."""
        return self._read(name, slice(start, stop))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[self._key(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _read(self, name: str, part: Any) -> np.ndarray:
        file, key = self._files[self._key(name)]
        with opened(file) as shard:
            return shard.get_slice(key)[part].float().numpy().copy()

    def _key(self, name: str) -> str:
        for known in (name, self.aliases.get(name, name)):
            for prefix in self.prefixes:
                for key in (prefix + known, known.removeprefix(prefix)):
                    if key in self._files:
                        return key
        files = ", ".join(sorted({file.name for file, _ in self._files.values()}))
        raise WeightsError(f"no tensor {name!r} in {files}: the files do not fit the configuration")


def check_cover(weights: WeightSource, names: Sequence[str], what: str) -> None:
    """Raise WeightsError unless there is a tensor for each of the architecture's `names`."""
    missing = [name for name in names if not has(weights, name)]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise WeightsError(
            f"{what}: {len(missing)} of the architecture's {len(names)} tensors are in none of its files ({shown}); "
            "other loaders draw them at random: download it again, or give the configuration that it was saved with"
        )


def has(weights: WeightSource, name: str) -> bool:
    try:
        weights.shape(name)
    except WeightsError:
        return False
    return True


def present_name(key: str) -> str:
    """The name that today's architecture has for a checkpoint's key."""
    match = DEPRECATED_KEY.fullmatch(key)
    return f"{match[1]}.{DEPRECATED[match[2]]}.{match[3]}" if match else key


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """The safetensors file, open; raises WeightsError if it is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as shard:
            yield shard
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} cannot be read as safetensors ({error}): download it again") from error


def weight_files(folder: Path, variant: str = "") -> list[Path]:
    """The safetensors files of one component's folder, whole or sharded; those of `variant` ("fp16") come first."""
    for stem in STEMS:
        for dot in dict.fromkeys((f".{variant}" if variant else "", "", ".fp16")):
            single = folder / f"{stem}{dot}.safetensors"
            if single.is_file():
                return [single]
            for name in INDEXES:
                if (index := folder / name.format(stem=stem, dot=dot)).is_file():
                    return shards(index)
    raise WeightsError(f"{folder} has no {STEMS[0]}.safetensors or {STEMS[1]}.safetensors: only safetensors are read")


def shards(index: Path) -> list[Path]:
    """The files that an index names; WeightsError if it is none."""
    try:
        return [
            index.parent / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is no index of shards ({error!r}): download it again") from error
