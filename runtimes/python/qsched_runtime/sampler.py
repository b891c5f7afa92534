"""The sampler that ships: prompt -> picture with numpy and onnxruntime, whatever the model family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsched_runtime import manifest as manifests
from qsched_runtime.errors import RequestError
from qsched_runtime.image import from_uint8, to_uint8
from qsched_runtime.manifest import Manifest
from qsched_runtime.noise import TorchNoise
from qsched_runtime.schedule import Coefficients, FoldedSchedule
from qsched_runtime.sessions import Feeds, Graph
from qsched_runtime.sources import MOVING, Known, patchify, unpatchify
from qsched_runtime.tokenize import Tokenizer, load_tokenizer

Streams = list[TorchNoise]


@dataclass(frozen=True)
class Conditioning:
    """What stays the same over the steps: the backbone's fixed inputs, the guidance scale, latents' [B, C, h, w]."""

    feeds: Feeds
    guidance_scale: float
    shape: tuple[int, int, int, int]


@dataclass(frozen=True)
class Step:
    """What one step of the sampler saw: latents x, network output e, fresh noise z (or None), new latents."""

    i: int
    x: np.ndarray
    e: np.ndarray
    z: np.ndarray | None
    x_next: np.ndarray


@dataclass(frozen=True)
class Output:
    """images uint8 [B, H, W, 3]; latents float32 [B, C, h, w], the last step's."""

    images: np.ndarray
    latents: np.ndarray


class Sampler:
    """Draws pictures from a bundle: `Sampler.from_pretrained(folder)("a red apple", seed=42).images[0]`."""

    def __init__(
        self, manifest: Manifest, graphs: Mapping[str, Callable[[Feeds], Feeds]], tokenizers: Mapping[str, Tokenizer]
    ) -> None:
        self.manifest, self.graphs, self.tokenizers = manifest, graphs, tokenizers
        self.backbone = manifest.components[manifest.backbone]

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",), memory: str = "low",
        threads: int | None = None,
    ) -> Sampler:  # fmt: skip
        """Check every file of the bundle at `path`, then load it.

        `providers` are onnxruntime's names; one that is missing raises ProviderError. `memory` "low" keeps
        4-bit convolutions packed, "fast" unpacks them once. `threads` limits onnxruntime (default: its own choice).
        Raises BundleError before any parser sees a file whose size or SHA-256 is not the manifest's.
        """
        folder = Path(path)
        manifest = manifests.read(folder)
        for file in manifest.files:
            manifests.check_file(folder, file)
        tokenizers = {name: load_tokenizer(folder / t.file, t) for name, t in manifest.tokenizers.items()}
        graphs = {n: Graph(folder / c.file, providers, memory, threads) for n, c in manifest.components.items()}
        return cls(manifest, graphs, tokenizers)

    def __call__(
        self, prompt: str | Sequence[str], *, seed: int | Sequence[int] = 0, num_inference_steps: int | None = None,
        guidance_scale: float | None = None, negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None, width: int | None = None, image: np.ndarray | None = None, strength: float = 0.8,
        coefficients: Coefficients | None = None, callback_on_step_end: Callable[[Step], None] | None = None,
    ) -> Output:  # fmt: skip
        """Sample one picture per prompt.

        One integer `seed` is one noise stream for the whole batch; a list gives each picture its own, as diffusers does
        with one generator or a list. `height` and `width` are pixels. `image` uint8 [H, W, 3] or [B, H, W, 3] is where
        sampling starts: `strength` in 0..1 is the share of the steps that follow. `coefficients` replace the bundle's.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        schedule, streams = self.schedule(num_inference_steps, coefficients), self.streams(seed, len(prompts))
        if image is not None:
            if height or width:
                raise RequestError(f"height {height} and width {width} beside an image: leave out, its own are taken")
            image = pictures(image, len(prompts), len(streams))
            height, width = image.shape[1:3]
        conditioning = self.condition(prompts, guidance_scale, negative_prompt, height, width)
        x, first = None, 0
        if image is not None:
            first = first_step(len(schedule.table), strength, self.manifest.strength_rounds_up)
            x = schedule.noised(self.encode(image, streams), draw(streams, conditioning.shape), first)
        for step in self.trajectory(conditioning, schedule, streams, x, first):
            if callback_on_step_end:
                callback_on_step_end(step)
        return Output(to_uint8(self.decode(step.x_next)), step.x_next)

    def schedule(self, steps: int | None = None, coefficients: Coefficients | None = None) -> FoldedSchedule:
        """The table for `steps` (default: the bundle's), with the bundle's coefficients or those given."""
        steps = self.manifest.default_steps if steps is None else steps
        if steps not in self.manifest.schedules:
            known = ", ".join(map(str, sorted(self.manifest.schedules)))
            raise RequestError(f"no schedule for {steps} steps: this bundle has {known}")
        return self.manifest.schedules[steps].folded(coefficients or self.manifest.coefficients[steps])

    @staticmethod
    def streams(seed: int | Sequence[int], batch: int) -> Streams:
        """One noise stream, or one for each picture."""
        seeds = [seed] if isinstance(seed, (int, np.integer)) else list(seed)
        if len(seeds) not in (1, batch):
            raise RequestError(f"{len(seeds)} seeds for {batch} prompts: give one, or one for each")
        return [TorchNoise(int(s)) for s in seeds]

    def condition(
        self, prompts: Sequence[str], guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None, height: int | None = None, width: int | None = None,
    ) -> Conditioning:  # fmt: skip
        """Run the text encoders; under classifier-free guidance the negative prompts come first in every batch."""
        scale = self.manifest.guidance.default if guidance_scale is None else float(guidance_scale)
        batch, shape = len(prompts), self.manifest.latents.shape(height, width)
        if negative_prompt and not self.guides(scale):
            raise RequestError(f"negative_prompt {negative_prompt!r} has no effect: this bundle runs without guidance")
        negative = negative_prompt or ""
        negatives = [negative] * batch if isinstance(negative, str) else list(negative)
        if not len(negatives) == batch > 0:
            raise RequestError(f"{batch} prompts, {len(negatives)} negative ones: give a prompt, and one for each")
        texts = [*negatives, *prompts] if self.guides(scale) else list(prompts)
        known = Known(texts, scale, shape[1:], self.manifest.latents, self.tokenizers)
        for component in self.manifest.components.values():
            if any("tokenizer" in source for source in component.inputs.values()):
                outputs = self.graphs[component.name]({n: known.value(s) for n, s in component.inputs.items()})
                if self.manifest.guidance.zero_without_negative and self.guides(scale) and negative_prompt is None:
                    outputs = {k: np.concatenate([0 * v[:batch], v[batch:]]) for k, v in outputs.items()}
                known.outputs.update({f"{component.name}.{k}": v for k, v in outputs.items()})
        fixed = {n: known.value(s) for n, s in self.backbone.inputs.items() if s not in MOVING}
        return Conditioning(fixed, scale, (batch, *shape))

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
            yield Step(i, x, e, z, x_next)
            x = x_next

    def network_output(self, x: np.ndarray, timestep: float, conditioning: Conditioning) -> np.ndarray:
        """e float32, shaped as x; guided: e = e_negative + guidance_scale (e_prompt - e_negative)."""
        guided, patch = self.guides(conditioning.guidance_scale), self.manifest.latents.patch
        latents = patchify(np.concatenate([x, x]) if guided else x, patch)
        moving = {"latents": latents, "timestep": np.array([timestep]), "timesteps": np.full(len(latents), timestep)}
        feeds = {n: moving[s] for n, s in self.backbone.inputs.items() if s in MOVING}
        (e,) = self.graphs[self.backbone.name](feeds | conditioning.feeds).values()
        e = unpatchify(e, patch, x.shape[2:])
        if not guided:
            return e
        e_negative, e_prompt = np.split(e, 2)
        return e_negative + np.float32(conditioning.guidance_scale) * (e_prompt - e_negative)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Latents float32 [B, C, h, w] -> pictures float32 [B, 3, H, W], about -1..1."""
        spec, decoder = self.manifest.latents, self.manifest.components[self.manifest.decoder]
        scaled = x / np.float32(spec.scaling_factor) + np.float32(spec.shift_factor)
        (pictures,) = self.graphs[decoder.name](dict.fromkeys(decoder.inputs, scaled)).values()
        return pictures

    def encode(self, image: np.ndarray, streams: Streams) -> np.ndarray:
        """Pictures uint8 [B, H, W, 3] -> latents float32 [B, C, h, w], sampled where the encoder is variational."""
        spec, name = self.manifest.latents, self.manifest.encoder
        if not name:
            raise RequestError("image: this bundle has no VAE encoder; export it with --encoder")
        inputs = self.manifest.components[name].inputs
        (latents,) = self.graphs[name]({n: from_uint8(image) for n in inputs}).values()
        if latents.shape[1] == 2 * spec.channels:
            mean, log_variance = np.split(latents, 2, axis=1)
            latents = mean + np.exp(np.float32(0.5) * np.clip(log_variance, -30, 20)) * draw(streams, mean.shape)
        return (latents - np.float32(spec.shift_factor)) * np.float32(spec.scaling_factor)

    def guides(self, guidance_scale: float) -> bool:
        return self.manifest.guidance.kind == "classifier-free" and guidance_scale > 1


def draw(streams: Streams, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of `shape` [B, ...] from one stream for all, or from one stream for each picture."""
    if len(streams) == 1:
        return streams[0].randn(shape)
    return np.concatenate([stream.randn((1, *shape[1:])) for stream in streams])


def pictures(image: np.ndarray, prompts: int, streams: int) -> np.ndarray:
    """uint8 [1 or prompts, H, W, 3]; one picture stays one where one stream gives all noise, as in diffusers."""
    found = np.asarray(image)
    found = found[None] if found.ndim == 3 else found
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[-1] != 3 or len(found) not in (1, prompts):
        raise RequestError(f"image is {found.dtype} {list(found.shape)}: give uint8 [H, W, 3] or [{prompts}, H, W, 3]")
    return found if streams == 1 else np.broadcast_to(found, (prompts, *found.shape[1:]))


def first_step(steps: int, strength: float, rounds_up: bool) -> int:
    """Where sampling starts from a picture; a fraction of a step is taken or, as most families do, left out."""
    first = int(steps - steps * strength) if rounds_up else steps - int(steps * strength)
    if not 0 < strength <= 1 or first >= steps:
        raise RequestError(f"strength {strength} leaves no step of {steps}: use {1 / steps:g} to 1")
    return first
