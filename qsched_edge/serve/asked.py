"""What a request may ask for: OpenAI's names, and three of our own; each is held to its type and range."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from qsched_runtime import manifest as manifests
from qsched_runtime.request import GUIDANCE, MOST_PIXELS, SEEDS, integer, number, seeds_of, shown, texts
from qsched_runtime.strict import JsonLimits, parse_json

from qsched_edge.errors import BundleError, RequestError
from qsched_edge.serve.errors import ApiError
from qsched_edge.serve.settings import ServeSettings

BODY = JsonLimits(64 * 1024, 1000, 10_000)  # a prompt of 10,000 characters fits whatever its script
SCHEDULES = ("calibrated", "stock")
ONE_VALUE = {"response_format": ("b64_json",), "output_format": ("png",), "quality": ("auto", "standard")}
KNOWN = frozenset((
    "prompt", "n", "size", "model", "user", "stream", "partial_images", "seed", "num_inference_steps",
    "guidance_scale", "negative_prompt", "schedule", *ONE_VALUE,
))  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """`seeds`: one for each picture, the next whole numbers after the first; `stock`: without the bundle's calibration;
    `height` and `width` in pixels (None: the bundle's); `previews`: steps of which the picture is shown on the way."""

    prompt: str
    seeds: tuple[int, ...]
    steps: int
    guidance_scale: float
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    stock: bool = False
    stream: bool = False
    previews: int = 0


def asked_of(body: bytes, manifest: manifests.Manifest, settings: ServeSettings) -> Asked:
    """ApiError 400 (404 for another model) with the parameter at fault."""
    raw = document(body)
    for name in raw:
        if name not in KNOWN:
            raise ApiError(
                400, f"unknown parameter {shown(name)}: use {', '.join(sorted(KNOWN))}", code="unknown_parameter"
            )
    given = {name: value for name, value in raw.items() if value is not None}
    if given.get("model", manifest.name) != manifest.name:
        message = f"the model {shown(given['model'])} is not here: leave it out, or use {manifest.name!r}"
        raise ApiError(404, message, "model", "model_not_found")
    for name, values in ONE_VALUE.items():
        one_of(name, given.get(name, values[0]), values)
    height, width = size_of(given.get("size", "auto"), manifest, settings)
    scale = held(
        "guidance_scale",
        lambda: number("guidance_scale", given.get("guidance_scale", manifest.guidance.default), *GUIDANCE),
    )
    return Asked(
        prompt_of(given), seeds_from(given, settings), steps_of(given, manifest), scale,
        negative_of(given, manifest, scale), height, width,
        one_of("schedule", given.get("schedule", "calibrated"), SCHEDULES) == "stock",
        bool(one_of("stream", given.get("stream", False), (False, True))),
        held("partial_images", lambda: integer("partial_images", given.get("partial_images", 0), 0, 1000)),
    )  # fmt: skip


def document(body: bytes) -> dict[str, Any]:
    try:
        raw = parse_json(body, BODY, "the body")
    except BundleError as error:
        reason = str(error).partition(": make the bundle again")[0]
        raise ApiError(400, f"{reason}: send a JSON object", code="invalid_json") from error
    if not isinstance(raw, dict):
        raise ApiError(400, "the body is no JSON object: send one with a prompt", code="invalid_json")
    return raw


def held(param: str, read: Callable[[], T]) -> T:
    """What `read` gives; its RequestError names the parameter."""
    try:
        return read()
    except RequestError as error:
        raise ApiError(400, str(error), param, "invalid_value") from error


def one_of(param: str, value: Any, values: tuple[Any, ...]) -> Any:
    if not any(value is known or (isinstance(value, str) and value == known) for known in values):
        known = ", ".join(str(v).lower() if isinstance(v, bool) else v for v in values)
        raise ApiError(400, f"{param} {shown(value)} is not offered: use {known}", param, "unsupported_value")
    return value


def prompt_of(given: Mapping[str, Any]) -> str:
    prompt = given.get("prompt")
    if not isinstance(prompt, str):
        raise ApiError(400, f"prompt is {shown(prompt)}: give a text", "prompt", "missing_required_parameter")
    return held("prompt", lambda: texts("prompt", prompt))[0]


def seeds_from(given: Mapping[str, Any], settings: ServeSettings) -> tuple[int, ...]:
    """A seed for each picture, so that each can be drawn again alone."""
    n = held("n", lambda: integer("n", given.get("n", 1), 1, settings.max_images))
    (first,) = held("seed", lambda: seeds_of(integer("seed", given["seed"], *SEEDS) if "seed" in given else None, 1))
    return held("seed", lambda: tuple(integer("seed", first + i, *SEEDS) for i in range(n)))


def steps_of(given: Mapping[str, Any], manifest: manifests.Manifest) -> int:
    name = "num_inference_steps"
    steps = held(name, lambda: integer(name, given.get(name, manifest.default_steps), 1, 10_000))
    if steps not in manifest.schedules:
        known = ", ".join(map(str, sorted(manifest.schedules)))
        raise ApiError(400, f"no schedule for {steps} steps: this bundle has {known}", name, "invalid_value")
    return steps


def negative_of(given: Mapping[str, Any], manifest: manifests.Manifest, scale: float) -> str | None:
    found = given.get("negative_prompt", "")
    if not isinstance(found, str):
        raise ApiError(400, f"negative_prompt is {shown(found)}: give a text", "negative_prompt", "invalid_value")
    if not found:
        return None
    held("negative_prompt", lambda: texts("negative_prompt", found))
    if manifest.guidance.kind != "classifier-free" or scale <= 1:
        message = f"negative_prompt {shown(found)} has no effect: this bundle runs without guidance"
        raise ApiError(400, message, "negative_prompt", "invalid_value")
    return found


def size_of(size: Any, manifest: manifests.Manifest, settings: ServeSettings) -> tuple[int | None, int | None]:
    """Height and width in pixels of WIDTHxHEIGHT; None for "auto", the bundle's own."""
    if size == "auto":
        return None, None
    found = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", size) if isinstance(size, str) else None
    if found is None:
        raise ApiError(
            400, f"size is {shown(size)}: give WIDTHxHEIGHT, such as 512x512, or auto", "size", "invalid_value"
        )
    width, height = map(int, found.groups())
    for side in (width, height):
        held("size", partial(integer, "size", side, 1, MOST_PIXELS))
    most = max(settings.max_side, *own_size(manifest))
    if max(height, width) > most:
        raise ApiError(400, f"size {size} is too large: {most} pixels a side are allowed here", "size", "invalid_value")
    held("size", lambda: manifest.latents.shape(height, width))
    return height, width


def own_size(manifest: manifests.Manifest) -> tuple[int, int]:
    """Height and width in pixels that the bundle draws where nobody says."""
    spec = manifest.latents
    return spec.height * spec.pixels_per_latent, spec.width * spec.pixels_per_latent
