"""What "auto" chooses, one network at a time, and large pictures in tiles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from qsched_runtime import ProviderError
from qsched_runtime.memory import MODES, OneAtATime, machine_bytes, modes_of
from qsched_runtime.tiles import decoded_in_tiles

from qsched_edge.calibrate.registries import MEMORY_MODES

MIB = 2**20
SIZES = {"unet": 400 * MIB, "text_encoder": 100 * MIB, "vae_decoder": 50 * MIB}


def test_auto_unpacks_the_smallest_while_a_sixteenth_of_the_memory_holds_them() -> None:
    assert modes_of(SIZES, "auto", 1024 * MIB) == dict.fromkeys(SIZES, "low")
    fast = [name for name, mode in modes_of(SIZES, "auto", 16 * 1300 * MIB).items() if mode == "fast"]
    assert sorted(fast) == ["text_encoder", "vae_decoder"]
    assert modes_of(SIZES, "auto", 16 * 4400 * MIB) == dict.fromkeys(SIZES, "fast")
    assert modes_of({"tiny": 1}, "auto") == {"tiny": "fast"}
    assert machine_bytes() > 100 * MIB


@pytest.mark.parametrize(("memory", "expected"), [("low", "low"), ("fast", "fast"), ("sequential", "low")])
def test_a_mode_that_is_asked_for_holds_for_all(memory: str, expected: str) -> None:
    assert modes_of(SIZES, memory, 1) == dict.fromkeys(SIZES, expected)


def test_the_command_line_offers_the_modes_of_the_runtime() -> None:
    assert MEMORY_MODES == MODES


def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ProviderError, match="'slow' is unknown: use one of auto, low, fast, sequential"):
        modes_of(SIZES, "slow")


def test_the_network_before_is_given_back_before_the_next_is_loaded() -> None:
    alive: set[str] = set()

    class Network:
        def __init__(self, name: str) -> None:
            assert not alive
            self.name = name
            alive.add(name)

        def __call__(self) -> str:
            return self.name

        def __del__(self) -> None:
            alive.discard(self.name)

    def loader(name: str) -> Callable[[], Network]:
        return lambda: Network(name)

    graphs = OneAtATime({name: loader(name) for name in SIZES})
    assert [graphs[name]() for name in (*SIZES, "unet", "unet")] == [*SIZES, "unet", "unet"]
    assert alive == {"unet"}
    assert list(graphs) == list(SIZES)


def blocks(latents: np.ndarray) -> np.ndarray:
    """A decoder that looks at one latent alone: each becomes 2 x 2 pixels of three channels."""
    return np.sin(latents[:, :3]).repeat(2, axis=2).repeat(2, axis=3)


def blurred(latents: np.ndarray) -> np.ndarray:
    """One that looks at the neighbours too, and takes what lies outside for zero."""
    padded = np.pad(latents[:, :3], ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = latents.shape[2:]
    total = sum(padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9
    return np.asarray(total, np.float32).repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize("size", [(8, 8), (20, 13), (9, 33), (5, 40)])
def test_tiles_of_a_local_decoder_are_the_picture(size: tuple[int, int]) -> None:
    latents = np.random.default_rng(0).standard_normal((2, 4, *size)).astype(np.float32)
    found = decoded_in_tiles(blocks, latents, 8, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, blocks(latents), atol=1e-6)


def test_tiles_are_never_larger_and_blend_where_the_decoder_looks_further() -> None:
    latents = np.random.default_rng(1).standard_normal((1, 4, 30, 30)).astype(np.float32)
    seen: list[tuple[int, ...]] = []

    def decode(part: np.ndarray) -> np.ndarray:
        seen.append(part.shape[2:])
        return blurred(part)

    found, whole = decoded_in_tiles(decode, latents, 12, 2), blurred(latents)
    assert set(seen) == {(12, 12)}
    error, scale = np.abs(found - whole), np.abs(whole).max()
    assert error[:, :, :16, :16].max() < 1e-6  # the first tile's middle
    assert error.max() < 0.35 * scale
    assert error.mean() < 0.01 * scale
