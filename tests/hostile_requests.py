"""Arguments made to harm, for a sampler of a good bundle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

PICTURE, NAN, FAR = np.zeros((16, 16, 3), np.uint8), float("nan"), float("inf")
VALUES: dict[str, tuple[Any, ...]] = {
    "prompt": (
        None,
        3,
        b"x",
        [],
        {},
        [None],
        [3],
        ["x", b"y"],
        "\ud800",
        ["a", "\udfff"],
        "x" * 10_001,
        ["x"] * 257,
        object(),
        NAN,
        {"a": 1},
    ),
    "seed": (NAN, 1.5, "1", True, 2**64, -(2**63) - 1, 10**400, [1, 2], [], [None], [1.5], {}, object(), b"x"),
    "num_inference_steps": (0, -1, 10**9, 1.5, "4", True, NAN, FAR, [4], 999, 10**400, object()),
    "guidance_scale": (NAN, FAR, -FAR, -1, 1e30, "2", True, [2.0], 10**400, object(), 1001),
    "negative_prompt": (3, b"x", [3], "\ud800", ["a", "b", "c"], "x" * 10_001, object(), "words"),
    "num_images_per_prompt": (0, -1, 257, 1.5, "2", None, True, NAN, 10**400),
    "height": (-8, 7, 2**31, 2**63, 1.5, "16", NAN, True, [16], 10**400),
    "width": (-8, 7, 2**31, 2**63, 1.5, "16", NAN, True, [16], 10**400),
    "coefficients": (1.0, [1.0], {}, "x"),
    "callback_on_step_end": (3, "x", [print]),
    "image": (
        "x.png",
        3,
        PICTURE.astype(np.float32),
        PICTURE[..., :1],
        PICTURE[0],
        [PICTURE, PICTURE],
        object(),
        NAN,
        np.zeros((0, 0, 3), np.uint8),
        [PICTURE, PICTURE[:3]],
        PICTURE,
    ),
}


def requests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments of `sampler(...)` that no bundle can serve: each is a RequestError."""
    for name, bad in VALUES.items():
        for i, value in enumerate(bad):
            yield f"{name} {i}", {"prompt": "a red apple", name: value}
    for strength in (NAN, FAR, -0.1, 1.1, "0.5", None, True, 10**400, 0.0):
        yield f"strength {strength!s:.20}", {"prompt": "x", "image": PICTURE, "strength": strength}
    yield "an array beside an image", {"prompt": "x", "image": PICTURE, "height": np.zeros((2, 2))}
    yield "sizes beside an image", {"prompt": "x", "image": PICTURE, "height": 16}
    yield "many large pictures", {"prompt": ["x"] * 256, "height": 4096, "width": 4096}
