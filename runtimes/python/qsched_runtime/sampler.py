"""The sampler that ships: prompt -> picture with numpy and onnxruntime, whatever the model family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsched_runtime import manifest as manifests
from qsched_runtime.errors import BundleError, RequestError
from qsched_runtime.image import to_uint8
from qsched_runtime.manifest import Component, Manifest
from qsched_runtime.noise import TorchNoise
from qsched_runtime.schedule import Coefficients, FoldedSchedule
from qsched_runtime.sessions import Graph
from qsched_runtime.tokenize import load_tokenizer

Feeds = dict[str, np.ndarray]
Streams = list[TorchNoise]


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

    def __init__(self, manifest: Manifest, graphs: Mapping[str, Callable[[Feeds], Feeds]], tokenizers: dict) -> None:
        self.manifest, self.graphs, self.tokenizers = manifest, graphs, tokenizers

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        memory: str = "low",
        threads: int | None = None,
    ) -> Sampler:
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
        self,
        prompt: str | Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        coefficients: Coefficients | None = None,
        callback_on_step_end: Callable[[Step], None] | None = None,
    ) -> Output:
        """Sample one picture per prompt.

        One integer `seed` is one noise stream for the whole batch; a list gives each picture its own, as diffusers does
        with one generator or a list. `height` and `width` are pixels. `coefficients` replace the bundle's own.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        schedule = self.schedule(num_inference_steps, coefficients)
        streams = self.streams(seed, len(prompts))
        scale = self.manifest.guidance.default if guidance_scale is None else float(guidance_scale)
        conditioning = self.encode(prompts, scale, negative_prompt)
        x = self.initial_latents(streams, len(prompts), schedule, height, width)
        for step in self.trajectory(x, conditioning, schedule, streams, scale):
            x = step.x_next
            if callback_on_step_end:
                callback_on_step_end(step)
        return Output(to_uint8(self.decode(x)), x)

    def schedule(self, steps: int | None = None, coefficients: Coefficients | None = None) -> FoldedSchedule:
        """The table for `steps` (default: the bundle's), with the bundle's coefficients or those given."""
        steps = self.manifest.default_steps if steps is None else steps
        if steps not in self.manifest.schedules:
            known = ", ".join(map(str, sorted(self.manifest.schedules)))
            raise RequestError(f"no schedule for {steps} steps: this bundle has {known}")
        return self.manifest.schedules[steps].folded(coefficients or self.manifest.coefficients[steps])

    @staticmethod
    def streams(seed: int | Sequence[int], batch: int) -> Streams:
        seeds = [seed] if isinstance(seed, (int, np.integer)) else list(seed)
        if len(seeds) not in (1, batch):
            raise RequestError(f"{len(seeds)} seeds for {batch} prompts: give one, or one for each")
        return [TorchNoise(int(s)) for s in seeds]

    def initial_latents(
        self, streams: Streams, batch: int, schedule: FoldedSchedule, height: int | None, width: int | None
    ) -> np.ndarray:
        """Noise float32 [B, C, h, w] scaled by init_noise_sigma; sizes in pixels must suit the network."""
        spec = self.manifest.latents
        grid = spec.pixels_per_latent * spec.multiple_of
        sides = []
        for name, pixels, default in (("height", height, spec.height), ("width", width, spec.width)):
            if pixels is not None and (pixels <= 0 or pixels % grid):
                raise RequestError(f"{name} {pixels} does not fit this model: use a multiple of {grid}")
            sides.append(default if pixels is None else pixels // spec.pixels_per_latent)
        x = draw(streams, (batch, spec.channels, *sides))
        return x * np.float32(schedule.table.init_noise_sigma)

    def encode(self, prompts: Sequence[str], guidance_scale: float, negative_prompt: str = "") -> Feeds:
        """The backbone's inputs that do not change over the steps; twice the batch under classifier-free guidance."""
        texts = [*[negative_prompt] * len(prompts), *prompts] if self.guides(guidance_scale) else list(prompts)
        if negative_prompt and not self.guides(guidance_scale):
            raise RequestError(f"negative_prompt {negative_prompt!r} has no effect: this bundle runs without guidance")
        encoded: Feeds = {}
        for component in self.manifest.components.values():
            if any("tokenizer" in source for source in component.inputs.values()):
                feeds = {n: self.constant_input(s, texts, encoded, guidance_scale) for n, s in component.inputs.items()}
                encoded |= {f"{component.name}.{k}": v for k, v in self.graphs[component.name](feeds).items()}
        return {
            name: self.constant_input(source, texts, encoded, guidance_scale)
            for name, source in self.backbone.inputs.items()
            if source not in ("latents", "timestep")
        }

    def constant_input(self, source: Any, texts: list[str], encoded: Feeds, guidance_scale: float) -> np.ndarray:
        """Resolve one source of qsched.json: {"tokenizer": ..}, {"outputs": [..]} or {"guidance_embedding": width}."""
        match source:
            case {"tokenizer": name}:
                return np.array([self.tokenizers[name](text) for text in texts], np.int64)
            case {"outputs": names}:
                return np.concatenate([encoded[name] for name in names], axis=-1)
            case {"guidance_embedding": width}:
                return np.repeat(guidance_embedding(guidance_scale, width), len(texts), axis=0)
        raise BundleError(f"input source {source!r} is unknown to this runtime: use a newer one")

    def trajectory(
        self, x: np.ndarray, conditioning: Feeds, schedule: FoldedSchedule, streams: Streams, guidance_scale: float
    ) -> Iterator[Step]:
        """Yield every step from latents `x` on; `streams` go on giving the noise."""
        for i in range(len(schedule.table)):
            x_in, t = schedule.scale_model_input(x, i), schedule.table.timesteps[i]
            e = self.network_output(x_in, t, conditioning, guidance_scale)
            z = draw(streams, x.shape) if schedule.draws_noise(i) else None
            x_next = schedule.step(x, e, z, i)
            yield Step(i, x, e, z, x_next)
            x = x_next

    def network_output(self, x: np.ndarray, timestep: float, conditioning: Feeds, guidance_scale: float) -> np.ndarray:
        """e float32, shaped as x; guided: e = e_negative + guidance_scale (e_prompt - e_negative)."""
        guided = self.guides(guidance_scale)
        latents = np.concatenate([x, x]) if guided else x
        moving = {"latents": latents, "timestep": np.array([timestep])}
        feeds = {n: moving[s] for n, s in self.backbone.inputs.items() if s in ("latents", "timestep")}
        (e,) = self.graphs[self.backbone.name](feeds | conditioning).values()
        if not guided:
            return e
        e_negative, e_prompt = np.split(e, 2)
        return e_negative + np.float32(guidance_scale) * (e_prompt - e_negative)

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Latents float32 [B, C, h, w] -> pictures float32 [B, 3, H, W], about -1..1."""
        spec, decoder = self.manifest.latents, self.manifest.components[self.manifest.decoder]
        (name,) = decoder.inputs
        scaled = x / np.float32(spec.scaling_factor) + np.float32(spec.shift_factor)
        (pictures,) = self.graphs[decoder.name]({name: scaled}).values()
        return pictures

    def guides(self, guidance_scale: float) -> bool:
        return self.manifest.guidance.kind == "classifier-free" and guidance_scale > 1

    @property
    def backbone(self) -> Component:
        return self.manifest.components[self.manifest.backbone]


def draw(streams: Streams, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of `shape` [B, ...] from one stream for all, or from one stream for each picture."""
    if len(streams) == 1:
        return streams[0].randn(shape)
    return np.concatenate([stream.randn((1, *shape[1:])) for stream in streams])


def guidance_embedding(guidance_scale: float, width: int) -> np.ndarray:
    """float32 [1, width]: sin and cos of 1000 (guidance_scale - 1), as LCM (arXiv 2310.04378) feeds its scale."""
    half = width // 2
    rates = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000.0) / (half - 1)))
    angles = np.float32(guidance_scale - 1) * np.float32(1000) * rates
    return np.concatenate([np.sin(angles), np.cos(angles)])[None]
