"""Safetensors files as a lazy map from tensor names to arrays; one tensor is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qsched_edge.errors import WeightsError

STEMS = ("diffusion_pytorch_model", "model")


class WeightSource(Protocol):
    """What a quantizer asks of weights: their shapes, and float32 rows of one at a time."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def rows(self, name: str, start: int, stop: int) -> np.ndarray: ...


class Weights(Mapping[str, np.ndarray]):
    """`weights[name]` reads one tensor as float32, `rows` a part of one.

    `prefixes` stand before the names in some files but not in the architecture (older text encoders: "text_model.");
    `aliases` are other names of tensors that a model shares between layers. Files are opened for each read and closed
    again: a mapping that stays open would keep every page it has touched in the process's memory.
    """

    def __init__(
        self, files: list[Path], prefixes: Sequence[str] = (), aliases: Mapping[str, str] | None = None
    ) -> None:
        self.prefixes, self.aliases = ("", *prefixes), dict(aliases or {})
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            with opened(file) as shard:
                for key in shard.keys():  # noqa: SIM118 (not a mapping)
                    self._files[key] = file
                    self._shapes[key] = tuple(shard.get_slice(key).get_shape())

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
        key = self._key(name)
        with opened(self._files[key]) as shard:
            return shard.get_slice(key)[part].float().numpy().copy()

    def _key(self, name: str) -> str:
        for known in (name, self.aliases.get(name, name)):
            for key in (prefix + known for prefix in self.prefixes):
                if key in self._files:
                    return key
        files = ", ".join(sorted({f.name for f in self._files.values()}))
        raise WeightsError(f"no tensor {name!r} in {files}: the files do not fit the configuration")


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
            index = folder / f"{stem}.safetensors.index{dot}.json"
            single = folder / f"{stem}{dot}.safetensors"
            if single.is_file():
                return [single]
            if index.is_file():
                return [folder / name for name in shards(index)]
    raise WeightsError(f"{folder} has no {STEMS[0]}.safetensors or {STEMS[1]}.safetensors: only safetensors are read")


def shards(index: Path) -> list[str]:
    """The files that a sharded component's index names."""
    try:
        return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} has no weight_map of tensors and files: download it again") from error
