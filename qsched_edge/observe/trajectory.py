"""What every component is fed while the sampler draws: recorded once, replayed as often as needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from qsched_runtime import Sampler
from qsched_runtime.sessions import Feeds

from qsched_edge.noise import observing

PROMPTS_TOGETHER = 4  # prompts drawn together: more is faster on small models and takes more memory on large ones


@dataclass(frozen=True)
class Recorder:
    """A component's graph that keeps what it is fed as `folder`/00000.npz, 00001.npz, ..."""

    graph: Callable[[Feeds], Feeds]
    folder: Path

    def __call__(self, feeds: Feeds) -> Feeds:
        self.folder.mkdir(exist_ok=True)
        np.savez(self.folder / f"{len(list(self.folder.iterdir())):05d}.npz", **feeds)
        return self.graph(feeds)


def record(bundle: Path, prompts: Sequence[str], folder: Path, advance: Callable[[int], None]) -> None:
    """Draw all `prompts` with the bundle's own sampler; each component's feeds go to `folder`/COMPONENT.

    Every other batch takes the default number of steps, those between them the recipe's other step counts in turn (the
    bundle's where it names no other): layers that read the timestep must not be fitted to one schedule alone. `advance`
    hears the prompts done.
    """
    sampler = Sampler.from_pretrained(bundle, memory="low")
    recorders = {name: Recorder(graph, folder / name) for name, graph in sampler.graphs.items()}
    watched = Sampler(sampler.manifest, recorders, sampler.tokenizers)
    default = sampler.manifest.default_steps
    named = sampler.manifest.raw.get("recipe", {}).get("steps", [])
    others = [n for n in named if n != default] or [n for n in sampler.manifest.schedules if n != default] or [default]
    for i, start in enumerate(range(0, len(prompts), PROMPTS_TOGETHER)):
        some = list(prompts[start : start + PROMPTS_TOGETHER])
        seeds = [observing(start + j) for j in range(len(some))]
        steps = others[i // 2 % len(others)] if i % 2 else default
        output = watched(some, seed=seeds, num_inference_steps=steps)
        if sampler.manifest.encoder:
            watched.encode(output.images, sampler.streams(seeds, len(seeds)))
        advance(len(some))
