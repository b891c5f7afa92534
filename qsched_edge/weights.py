"""Safetensors files as a lazy map from tensor names to arrays; one tensor is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from qsched_edge.errors import WeightsError

STEMS = ("diffusion_pytorch_model", "model")


class Weights(Mapping[str, np.ndarray]):
    """`weights[name]` reads one tensor as float32; use it as a context manager.

    `prefixes` stand before the names in some files but not in the architecture (older text encoders: "text_model.");
    `aliases` are other names of tensors that a model shares between layers.
    """

    def __init__(
        self, files: list[Path], prefixes: Sequence[str] = (), aliases: Mapping[str, str] | None = None
    ) -> None:
        self.files, self.prefixes, self.aliases = files, ("", *prefixes), dict(aliases or {})
        self._stack = ExitStack()
        self._shards: dict[str, Any] = {}

    def __enter__(self) -> Weights:
        from safetensors import SafetensorError, safe_open

        for file in self.files:
            try:
                shard = self._stack.enter_context(safe_open(file, "pt"))
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{file} cannot be read as safetensors ({error}): download it again") from error
            self._shards |= dict.fromkeys(shard.keys(), shard)
        return self

    def __exit__(self, *reason: object) -> None:
        self._stack.close()
        self._shards = {}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._find(name).float().numpy()

    def shape(self, name: str) -> tuple[int, ...]:
        key = self._key(name)
        return tuple(self._shards[key].get_slice(key).get_shape())

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)

    def _find(self, name: str) -> Any:
        key = self._key(name)
        return self._shards[key].get_tensor(key)

    def _key(self, name: str) -> str:
        for known in (name, self.aliases.get(name, name)):
            for key in (prefix + known for prefix in self.prefixes):
                if key in self._shards:
                    return key
        raise WeightsError(
            f"no tensor {name!r} in {', '.join(f.name for f in self.files)}: the files do not fit the configuration"
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one component's folder: plain, fp16 variant or sharded; pickles are refused."""
    for stem in STEMS:
        for variant in ("", ".fp16"):
            index = folder / f"{stem}.safetensors.index{variant}.json"
            single = folder / f"{stem}{variant}.safetensors"
            if single.is_file():
                return [single]
            if index.is_file():
                names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
                return [folder / name for name in names]
    raise WeightsError(f"{folder} has no {STEMS[0]}.safetensors or {STEMS[1]}.safetensors: only safetensors are read")
