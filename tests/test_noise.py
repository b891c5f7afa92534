"""The noise stream against torch's own generator, and against itself to the bit."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qsched_runtime.noise import TorchNoise, cos_sin_turns, log


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40), sizes=st.lists(st.integers(16, 700), min_size=1, max_size=4))
def test_randn_follows_torch_over_several_calls(seed: int, sizes: list[int]) -> None:
    generator, noise = torch.Generator("cpu").manual_seed(seed), TorchNoise(seed)
    for n in sizes:
        np.testing.assert_allclose(noise.randn((n,)), torch.randn(n, generator=generator).numpy(), atol=2e-6)


@pytest.mark.parametrize(("seed", "sha256"), [(0, "73139a3d2ce1a873"), (42, "11d2e22436cf919d")])
def test_randn_is_the_same_on_every_machine(seed: int, sha256: str) -> None:
    values = TorchNoise(seed).randn((16384,)).astype("<f4")
    assert hashlib.sha256(values.tobytes()).hexdigest().startswith(sha256)


def test_log_and_cos_sin_agree_with_numpy_in_float64() -> None:
    u = np.linspace(2.0**-24, 1.0, 100_001)
    np.testing.assert_allclose(log(u), np.log(u), rtol=1e-14, atol=1e-15)
    cosine, sine = cos_sin_turns(u[:-1])
    np.testing.assert_allclose(cosine, np.cos(2 * np.pi * u[:-1]), atol=1e-14)
    np.testing.assert_allclose(sine, np.sin(2 * np.pi * u[:-1]), atol=1e-14)


def test_randn_refuses_what_torch_draws_differently() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        TorchNoise(0).randn((3,))
