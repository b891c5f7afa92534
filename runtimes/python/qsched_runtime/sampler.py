"""The sampler that ships: prompt -> picture with numpy and onnxruntime, whatever the model family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from qsched_runtime import manifest as manifests
from qsched_runtime.errors import BundleError, RequestError
from qsched_runtime.files import read_checked
from qsched_runtime.image import from_uint8, to_uint8
from qsched_runtime.inspection import LARGEST_GRAPH, inspect_graph
from qsched_runtime.manifest import Manifest
from qsched_runtime.memory import OneAtATime, modes_of
from qsched_runtime.noise import TorchNoise
from qsched_runtime.output import Output, Step
from qsched_runtime.packed import Packed, with_weights_in
from qsched_runtime.request import (
    GUIDANCE,
    MOST_PICTURES,
    MOST_PIXELS,
    check_room,
    first_step,
    integer,
    number,
    pictures,
    seeds_of,
    shown,
    texts,
)
from qsched_runtime.schedule import Coefficients, FoldedSchedule
from qsched_runtime.sessions import Feeds, Graph, as_bundle_error, providers_of
from qsched_runtime.sources import MOVING, Known, patchify, unpatchify
from qsched_runtime.tiles import decoded_in_tiles
from qsched_runtime.tokenize import Tokenizer, load_tokenizers

SMALLEST_TILE = 8  # latents; less has no room to blend
Streams = list[TorchNoise]


@dataclass(frozen=True)
class Conditioning:
    """What stays the same over the steps: the backbone's fixed inputs, the guidance scale, latents' [B, C, h, w]."""

    feeds: Feeds
    guidance_scale: float
    shape: tuple[int, int, int, int]


class Closed(dict[str, Callable[[Feeds], Feeds]]):
    """The graphs of a sampler that was closed."""

    def __missing__(self, name: str) -> Callable[[Feeds], Feeds]:
        raise RequestError("this sampler is closed: load it again with Sampler.from_pretrained")


class Sampler:
    """Draws pictures from a bundle: `Sampler.from_pretrained(folder)("a red apple", seed=42).images[0]`."""

    def __init__(
        self, manifest: Manifest, graphs: Mapping[str, Callable[[Feeds], Feeds]], tokenizers: Mapping[str, Tokenizer]
    ) -> None:
        self.manifest, self.graphs, self.tokenizers = manifest, graphs, tokenizers
        self.backbone = manifest.components[manifest.backbone]
        self.tile: int | None = None  # latents a side that are decoded at once

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str = "cpu", providers: Sequence[str] | None = None, memory: str = "auto",
        threads: int | None = None, trust: str = "listed", decoder_tile: int | None = None,
        memory_limit: int | None = None,
    ) -> Sampler:  # fmt: skip
        """Check every file of the bundle at `path`, a folder or a packed one, then load it.

        `device` is one of DEVICES, such as "cpu" or "cuda"; `providers`, onnxruntime's names in order of preference,
        replace it; one that is missing raises ProviderError. `memory` "low" keeps 4-bit convolutions packed, "fast"
        unpacks them once, "auto" chooses for each network by its size and `memory_limit` (bytes; default: the machine's
        memory), and "sequential" has one network in memory at a time, which is loaded when it is needed. `decoder_tile`
        decodes larger pictures in tiles of that many pixels a side. `threads` limits onnxruntime (default: its own
        choice). Raises BundleError before a parser sees a file whose size or SHA-256 is not the manifest's, and before
        onnxruntime sees a graph that reads other files than these or has operators that this project does not emit;
        `trust` "any" lets every operator pass.
        """
        place = manifests.place_of(Path(path))
        providers = providers_of(device) if providers is None else providers
        manifest = manifests.read(place)
        check_graphs(place, manifest, trust)
        tokenizers = load_tokenizers(place, manifest)
        modes = modes_of(sizes_of(manifest), memory, memory_limit)

        def loader(name: str, component: manifests.Component) -> Callable[[], Graph]:
            return lambda: load_graph(place, manifest, component.file, providers, modes[name], threads)

        loaders = {name: loader(name, component) for name, component in manifest.components.items()}
        one = memory == "sequential"
        graphs = OneAtATime(loaders) if one else {name: load() for name, load in loaders.items()}
        sampler = cls(manifest, graphs, tokenizers)
        sampler.tile = latents_of_tile(manifest, decoder_tile)
        return sampler

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the networks' memory; any use of the sampler afterwards is a RequestError."""
        self.graphs = Closed()

    def __call__(
        self, prompt: str | Sequence[str], *, seed: int | Sequence[int] | None = 0,
        num_inference_steps: int | None = None, guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None, num_images_per_prompt: int = 1,
        height: int | None = None, width: int | None = None, image: Any = None, strength: float = 0.8,
        coefficients: Coefficients | None = None, callback_on_step_end: Callable[[Step], Any] | None = None,
    ) -> Output:  # fmt: skip
        """Sample `num_images_per_prompt` pictures for each prompt, those of one prompt side by side.

        One integer `seed` is one noise stream for the whole batch; a list gives each picture its own, as diffusers does
        with one generator or a list; None draws a seed, which the output reports. `height` and `width` are pixels.
        `image`, uint8 [H, W, 3] or [B, H, W, 3] or PIL's, is where sampling starts: `strength` in 0..1 is the share of
        the steps that follow. `coefficients` replace the bundle's. `callback_on_step_end` gets each Step and, unlike
        in diffusers, ends the sampling by returning True; `preview(step)` shows what the step sees.
        """
        each = integer("num_images_per_prompt", num_images_per_prompt, 1, MOST_PICTURES)
        prompts = [text for text in texts("prompt", prompt) for _ in range(each)]
        seeds = seeds_of(seed, len(prompts))
        streams = self.streams(seeds, len(prompts))
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise RequestError(f"callback_on_step_end is {shown(callback_on_step_end)}: give a function of a Step")
        if image is not None:
            if height is not None or width is not None:
                raise RequestError(
                    f"height {shown(height)} and width {shown(width)} beside an image: leave out, its own are taken"
                )
            image = pictures(image, len(prompts), len(streams))
            height, width = image.shape[1:3]
        negatives = negative_prompt
        if each > 1 and not isinstance(negative_prompt, (str, type(None))):
            negatives = [text for text in texts("negative_prompt", negative_prompt) for _ in range(each)]
        schedule = self.schedule(num_inference_steps, coefficients, self.manifest.latents.shape(height, width))
        conditioning = self.condition(prompts, guidance_scale, negatives, height, width)
        x, first = None, 0
        if image is not None:
            first = first_step(len(schedule.table), strength, self.manifest.strength_rounds_up)
            x = schedule.noised(self.encode(image, streams), draw(streams, conditioning.shape), first)
        return self.finish(self.trajectory(conditioning, schedule, streams, x, first), seeds, callback_on_step_end)

    def finish(self, steps: Iterator[Step], seeds: Sequence[int], callback: Callable[[Step], Any] | None) -> Output:
        """Go through the steps, until the callback says True, and decode the last one's latents or its estimate."""
        stopped = False
        for step in steps:
            if not np.isfinite(step.x_next).all():
                raise BundleError(f"step {step.i} gave latents that are not finite: no picture can be drawn of them")
            stopped = callback is not None and callback(step) is True
            if stopped:
                break
        decoded = self.decode(step.estimate if stopped else step.x_next)
        if not np.isfinite(decoded).all():
            raise BundleError(f"{self.manifest.decoder} gave a picture that is not finite: make the bundle again")
        return Output(to_uint8(decoded), step.x_next, seeds[0] if len(seeds) == 1 else tuple(seeds), stopped)

    def preview(self, step: Step) -> np.ndarray:
        """The pictures, uint8 [B, H, W, 3], that `step` leads to as far as it can tell: its estimate, decoded."""
        return to_uint8(self.decode(step.estimate))

    def left_out(self, prompt: str) -> dict[str, int]:
        """How many of the prompt's tokens each tokenizer has no room for, by its name; 0 where all are read."""
        (text,) = texts("prompt", prompt)
        with as_bundle_error("the tokenizers cannot be run"):
            return {name: tokenizer.left_out(text) for name, tokenizer in self.tokenizers.items()}

    def schedule(
        self, steps: int | None = None, coefficients: Coefficients | None = None, shape: Sequence[int] | None = None
    ) -> FoldedSchedule:
        """The table for `steps` (default: the bundle's), with the bundle's coefficients or those given.

        `shape` [..., h, w] of latents matters where the schedule shifts with the size (default: the bundle's size).
        """
        steps = self.manifest.default_steps if steps is None else steps
        if integer("num_inference_steps", steps, 1, 10_000) not in self.manifest.schedules:
            known = ", ".join(map(str, sorted(self.manifest.schedules)))
            raise RequestError(f"no schedule for {steps} steps: this bundle has {known}")
        if not isinstance(coefficients, (Coefficients, type(None))):
            raise RequestError(f"coefficients is {shown(coefficients)}: give Coefficients")
        h, w = (self.manifest.latents.height, self.manifest.latents.width) if shape is None else shape[-2:]
        return self.manifest.schedules[steps].at(h * w).folded(coefficients or self.manifest.coefficients[steps])

    @staticmethod
    def streams(seed: int | Sequence[int] | None, batch: int) -> Streams:
        """One noise stream, or one for each picture."""
        return [TorchNoise(s) for s in seeds_of(seed, batch)]

    def condition(
        self, prompts: Sequence[str], guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None, height: int | None = None, width: int | None = None,
    ) -> Conditioning:  # fmt: skip
        """Run the text encoders; under classifier-free guidance the negative prompts come first in every batch."""
        default, prompts = self.manifest.guidance.default, texts("prompt", prompts)
        scale = default if guidance_scale is None else number("guidance_scale", guidance_scale, *GUIDANCE)
        batch, shape = len(prompts), self.manifest.latents.shape(height, width)
        check_room(batch, *(side * self.manifest.latents.pixels_per_latent for side in shape[1:]))
        if negative_prompt is not None and not isinstance(negative_prompt, str):
            negative_prompt = texts("negative_prompt", negative_prompt)
        if negative_prompt and not self.guides(scale):
            raise RequestError(f"negative_prompt {negative_prompt!r} has no effect: this bundle runs without guidance")
        negative = negative_prompt or ""
        negatives = texts("negative_prompt", negative) * batch if isinstance(negative, str) else list(negative)
        if len(negatives) != batch:
            raise RequestError(f"{batch} prompts, {len(negatives)} negative ones: give one for all, or one for each")
        read = [*negatives, *prompts] if self.guides(scale) else prompts
        with as_bundle_error("the text encoders cannot be run"):
            fixed = self.encoded(Known(read, scale, shape[1:], self.manifest.latents, self.tokenizers), negative_prompt)
        return Conditioning(fixed, scale, (batch, *shape))

    def encoded(self, known: Known, negative_prompt: Any) -> Feeds:
        """The backbone's fixed inputs, once the text encoders have run."""
        batch = len(known.texts) // 2
        for component in self.manifest.components.values():
            if any("tokenizer" in source for source in component.inputs.values()):
                outputs = self.graphs[component.name]({n: known.value(s) for n, s in component.inputs.items()})
                if (
                    self.manifest.guidance.zero_without_negative
                    and self.guides(known.guidance_scale)
                    and negative_prompt is None
                ):
                    outputs = {k: np.concatenate([0 * v[:batch], v[batch:]]) for k, v in outputs.items()}
                known.outputs.update({f"{component.name}.{k}": v for k, v in outputs.items()})
        return {n: known.value(s) for n, s in self.backbone.inputs.items() if s not in MOVING}

    def trajectory(
        self, conditioning: Conditioning, schedule: FoldedSchedule, streams: Streams, x: np.ndarray | None = None,
        first: int = 0,
    ) -> Iterator[Step]:  # fmt: skip
        """Yield the steps from `first` on, starting at latents `x` (default: noise); `streams` give all noise."""
        if x is None:
            x = draw(streams, conditioning.shape) * np.float32(schedule.table.init_noise_sigma)
        for i in range(first, len(schedule.table)):
            x_in, t = schedule.scale_model_input(x, i), schedule.table.timesteps[i]
            e = self.network_output(x_in, t, conditioning)
            z = draw(streams, x.shape) if schedule.draws_noise(i) else None
            x_next = schedule.step(x, e, z, i)
            yield Step(i, x, e, z, x_next, schedule)
            x = x_next

    def network_output(self, x: np.ndarray, timestep: float, conditioning: Conditioning) -> np.ndarray:
        """e float32, shaped as x; guided: e = e_negative + guidance_scale (e_prompt - e_negative)."""
        guided, patch = self.guides(conditioning.guidance_scale), self.manifest.latents.patch
        latents = patchify(np.concatenate([x, x]) if guided else x, patch)
        moving = {"latents": latents, "timestep": np.array([timestep]), "timesteps": np.full(len(latents), timestep)}
        feeds = {n: moving[s] for n, s in self.backbone.inputs.items() if s in MOVING}
        with as_bundle_error(f"{self.backbone.name} cannot be run"):
            (e,) = self.graphs[self.backbone.name](feeds | conditioning.feeds).values()
            e = unpatchify(e, patch, x.shape[2:])
        check_shape(self.backbone.name, e, ((1 + guided) * len(x), *x.shape[1:]))
        if not guided:
            return e
        e_negative, e_prompt = np.split(e, 2)
        return e_negative + np.float32(conditioning.guidance_scale) * (e_prompt - e_negative)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Latents float32 [B, C, h, w] -> pictures float32 [B, 3, H, W], about -1..1."""
        spec, decoder = self.manifest.latents, self.manifest.components[self.manifest.decoder]
        scaled = x / np.float32(spec.scaling_factor) + np.float32(spec.shift_factor)

        def decode(latents: np.ndarray) -> np.ndarray:
            (found,) = self.graphs[decoder.name](dict.fromkeys(decoder.inputs, latents)).values()
            return found

        with as_bundle_error(f"{decoder.name} cannot be run"):
            if self.tile is None or max(x.shape[2:]) <= self.tile:
                pictures = decode(scaled)
            else:
                pictures = decoded_in_tiles(decode, scaled, self.tile, spec.pixels_per_latent)
        check_shape(decoder.name, pictures, (len(x), 3, *(side * spec.pixels_per_latent for side in x.shape[2:])))
        return pictures

    def encode(self, image: np.ndarray, streams: Streams) -> np.ndarray:
        """Pictures uint8 [B, H, W, 3] -> latents float32 [B, C, h, w], sampled where the encoder is variational."""
        spec, name = self.manifest.latents, self.manifest.encoder
        if not name:
            raise RequestError("image: this bundle has no VAE encoder; export it with --encoder")
        inputs = self.manifest.components[name].inputs
        with as_bundle_error(f"{name} cannot be run"):
            (latents,) = self.graphs[name]({n: from_uint8(image) for n in inputs}).values()
        sides = [side // spec.pixels_per_latent for side in image.shape[1:3]]
        twice = latents.ndim == 4 and latents.shape[1] == 2 * spec.channels
        check_shape(name, latents, (len(image), (1 + twice) * spec.channels, *sides))
        if twice:
            mean, log_variance = np.split(latents, 2, axis=1)
            latents = mean + np.exp(np.float32(0.5) * np.clip(log_variance, -30, 20)) * draw(streams, mean.shape)
        return (latents - np.float32(spec.shift_factor)) * np.float32(spec.scaling_factor)

    def guides(self, guidance_scale: float) -> bool:
        return self.manifest.guidance.kind == "classifier-free" and guidance_scale > 1


def load_graph(
    place: Path | Packed, manifest: Manifest, name: str, providers: Sequence[str], memory: str, threads: int | None
) -> Graph:
    """The graph of the bytes that have the manifest's SHA-256; onnxruntime maps the weights from where they lie."""
    (file,) = (f for f in manifest.files if f.path == name)
    data = read_checked(place, file, LARGEST_GRAPH)
    if isinstance(place, Path):
        return Graph(place / name, providers, memory, threads, data)
    with as_bundle_error(f"{name} cannot be read"):
        data = with_weights_in(data, place, name[: name.rfind("/") + 1])
    return Graph(place.path, providers, memory, threads, data)


def check_graphs(folder: Path | Packed, manifest: Manifest, trust: str = "listed") -> None:
    """BundleError unless every file is as listed and every graph is one that a bundle may hold."""
    if trust not in ("listed", "any"):
        raise RequestError(f"trust is {shown(trust)}: use 'listed', or 'any' for graphs of your own")
    graphs, files = {c.file: c for c in manifest.components.values()}, {f.path: f.bytes for f in manifest.files}
    for file in manifest.files:
        if file.path not in graphs:
            manifests.check_file(folder, file)
            continue
        data = read_checked(folder, file, LARGEST_GRAPH)
        found, component = inspect_graph(data, file.path, files, trust == "any"), graphs[file.path]
        given, named = set(found.inputs) - found.tensors, manifest.raw["components"][component.name]["outputs"]
        if given != set(component.inputs) or found.outputs != named:
            raise BundleError(f"{file.path} has other inputs or outputs than {manifests.NAME} says: make it again")


def sizes_of(manifest: Manifest) -> dict[str, int]:
    """Bytes of each component's files."""
    folders = {name: PurePosixPath(c.file).parent for name, c in manifest.components.items()}
    return {
        name: sum(f.bytes for f in manifest.files if PurePosixPath(f.path).parent == folder)
        for name, folder in folders.items()
    }


def latents_of_tile(manifest: Manifest, pixels: int | None) -> int | None:
    """A tile's side in latents; RequestError for one that is no multiple of a latent, or too small to blend."""
    if pixels is None:
        return None
    unit = manifest.latents.pixels_per_latent
    tile = integer("decoder_tile", pixels, SMALLEST_TILE * unit, MOST_PIXELS)
    if tile % unit:
        raise RequestError(f"decoder_tile {tile} does not fit: use a multiple of {unit}")
    return tile // unit


def check_shape(name: str, found: np.ndarray, expected: tuple[int, ...]) -> None:
    if found.shape != expected:
        raise BundleError(f"{name} gave {list(found.shape)} instead of {list(expected)}: make the bundle again")


def draw(streams: Streams, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of `shape` [B, ...] from one stream for all, or from one stream for each picture."""
    if len(streams) == 1:
        return streams[0].randn(shape)
    return np.concatenate([stream.randn((1, *shape[1:])) for stream in streams])
