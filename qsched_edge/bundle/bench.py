"""How fast a bundle draws on this machine: load, each network's seconds with their spread, memory, bytes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from qsched_runtime import Sampler
from qsched_runtime.sessions import Feeds

from qsched_edge.work.memory import peak_bytes

REST = "sampler"  # what no network takes: tokenizers, noise, updates, pictures
PROMPT = "a photograph of a red apple on a wooden table"


@dataclass(frozen=True)
class BenchSettings:
    """`repeats` pictures after one that does not count; steps, height, width: None is the bundle's own."""

    repeats: int = 5
    steps: int | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Spread:
    """Seconds of several pictures: the one in the middle, the fastest, the slowest."""

    median: float
    fastest: float
    slowest: float


@dataclass(frozen=True)
class Bench:
    """What was found: seconds to check and load, of a picture and by network; peak resident set and files in bytes."""

    bundle: str
    size: tuple[int, int]
    steps: int
    load: float
    picture: Spread
    networks: Mapping[str, Spread]
    peak: int
    bytes: int

    def json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        height, width = self.size
        rows = [("picture", self.picture), *self.networks.items()]
        return "\n".join(
            [
                f"{self.bundle}: {height} x {width}, {self.steps} steps, {self.bytes:,} bytes",
                f"loaded in {self.load:.2f} s; {self.peak / 2**20:,.0f} MiB at most",
                f"{'seconds a picture':20} {'median':>8} {'fastest':>8} {'slowest':>8}",
                *(f"{name:20} {s.median:8.3f} {s.fastest:8.3f} {s.slowest:8.3f}" for name, s in rows),
            ]
        )


@dataclass
class Clock:
    """Seconds that each network took since they were last read."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def around(self, name: str, graphs: Mapping[str, Callable[[Feeds], Feeds]]) -> Callable[[Feeds], Feeds]:
        """The network `name`, timed; where it is loaded anew, that counts too."""

        def timed(feeds: Feeds) -> Feeds:
            started = time.perf_counter()
            found = graphs[name](feeds)
            self.seconds[name] += time.perf_counter() - started
            return found

        return timed

    def read(self) -> dict[str, float]:
        found, self.seconds = dict(self.seconds), defaultdict(float)
        return found


def bench_bundle(folder: Path, load: Callable[[Path], Sampler], settings: BenchSettings = BenchSettings()) -> Bench:
    """Load the bundle and draw with it."""
    started = time.perf_counter()
    sampler = load(folder)
    loaded = time.perf_counter() - started
    clock, graphs = Clock(), sampler.graphs
    sampler.graphs = {name: clock.around(name, graphs) for name in sampler.manifest.components}
    asked = {"num_inference_steps": settings.steps, "height": settings.height, "width": settings.width}
    totals: list[float] = []
    parts: list[dict[str, float]] = []
    size = (0, 0)
    for seed in range(1 + settings.repeats):
        started = time.perf_counter()
        height, width = sampler(PROMPT, seed=seed, **asked).images.shape[1:3]  # type: ignore[arg-type]
        totals.append(time.perf_counter() - started)
        parts.append(clock.read())
        size = int(height), int(width)
    networks = {name: spread_of([part.get(name, 0.0) for part in parts[1:]]) for name in parts[0]}
    networks[REST] = spread_of([total - sum(part.values()) for total, part in zip(totals[1:], parts[1:], strict=True)])
    stored = sum(file.bytes for file in sampler.manifest.files)
    steps = len(sampler.schedule(settings.steps).table)
    return Bench(str(folder), size, steps, loaded, spread_of(totals[1:]), networks, peak_bytes(), stored)


def spread_of(seconds: list[float]) -> Spread:
    return Spread(median(seconds), min(seconds), max(seconds))
