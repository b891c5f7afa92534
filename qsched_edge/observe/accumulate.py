"""Second moments of all layers' inputs: the 32-bit graph replays the recorded feeds, a few layers at a time."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from qsched_runtime.sessions import Feeds, Graph

from qsched_edge.errors import QuantizeError
from qsched_edge.observe.taps import Tap, taps_of
from qsched_edge.quantize.feeds import read_feeds
from qsched_edge.quantize.moments import Moments
from qsched_edge.work.hashes import keep_only
from qsched_edge.work.memory import RamLimit, peak_bytes

MOMENTS_ROOM = 2**31  # bytes of moments held at a time where no limit was given
TAPS_PER_REPLAY = 48  # inputs that one replay hands out: they are all in memory at once
ALIGNMENT = 256  # blocks of columns are multiples of the largest group
OBSERVED = "observed.onnx"


@dataclass(frozen=True)
class MomentsFolder:
    """Moments on disk: `folder`/WEIGHT.npz for each tap's first weight; `owners` says whose file a weight uses."""

    folder: Path
    owners: dict[str, str]

    @classmethod
    def of(cls, graph: Path, folder: Path) -> MomentsFolder:
        """The moments that `observe` has written for the 32-bit graph at `graph`."""
        return cls(folder, {name: tap.weights[0] for tap in taps_of(ir.load(graph).graph) for name in tap.weights})

    def __call__(self, weight: str) -> Moments | None:
        """None for weights that are neither linear nor convolutions."""
        if weight not in self.owners:
            return None
        with np.load(self.path(self.owners[weight]), allow_pickle=False) as stored:
            return Moments(tuple(stored[name] for name in stored.files))

    def path(self, owner: str) -> Path:
        return self.folder / f"{owner}.npz"


def observe(
    graph: Path, feeds: Sequence[Path], folder: Path, ram: RamLimit, advance: Callable[[int], None] = lambda n: None
) -> None:
    """Write the moments of every linear and convolution layer of the 32-bit `graph` to `folder`.

    The feeds are replayed once for every round of layers whose moments fit the memory that is left; files of an
    interrupted run are kept. `advance` hears the taps that are done. Raises QuantizeError if the limit is too low.
    """
    if not feeds:
        raise QuantizeError(f"{graph.parent.name} was not run while the model was observed: its inputs are unknown")
    folder.mkdir(exist_ok=True)
    store = MomentsFolder(folder, {})
    taps = taps_of(ir.load(graph).graph)
    room = room_for_moments(graph, feeds, ram)
    keep_only(folder, [f"{tap.weights[0]}.npz" for tap in taps])
    for some in rounds([tap for tap in taps if not is_whole(store.path(tap.weights[0]))], room):
        for tap, blocks in zip(some, replay(graph, some, feeds, room), strict=True):
            save(store.path(tap.weights[0]), blocks)
        advance(len(some))


def is_whole(path: Path) -> bool:
    """Is this an .npz file whose arrays all have the checksums that it states?"""
    try:
        with zipfile.ZipFile(path) as stored:
            return bool(stored.namelist()) and stored.testzip() is None
    except (FileNotFoundError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
        return False


def room_for_moments(graph: Path, feeds: Sequence[Path], ram: RamLimit) -> int:
    """Half of what the limit leaves beside the running graph; the other half is for what is quantized afterwards."""
    if ram.limit is None:
        return MOMENTS_ROOM
    Graph(graph, ["CPUExecutionProvider"])(read_feeds(feeds[0]))
    room = (ram.limit - peak_bytes()) // 2
    if room < 2**25:
        raise QuantizeError(
            f"--max-ram {ram.limit / 2**20:.0f}M leaves no room: running the 32-bit graph took "
            f"{peak_bytes() / 2**20:.0f} MiB; give {peak_bytes() / 2**20 + 128:.0f}M or more, or --calib-count 0"
        )
    return room


def block_widths(width: int, room: int) -> list[int]:
    """Sizes of the diagonal blocks of a [width, width] matrix that take at most `room` bytes in float32."""
    step = room // (4 * width) // ALIGNMENT * ALIGNMENT
    if width <= step or width * width * 4 <= room:
        return [width]
    if not step:
        raise QuantizeError(f"moments of {width} inputs do not fit {room / 2**20:.0f} MiB: raise --max-ram")
    return [min(step, width - start) for start in range(0, width, step)]


def rounds(taps: Sequence[Tap], room: int) -> list[list[Tap]]:
    """Taps in order, as many together as `room` and TAPS_PER_REPLAY allow."""
    grouped: list[list[Tap]] = []
    left = 0
    for tap in taps:
        need = 4 * sum(w * w for w in block_widths(tap.width, room))
        if not grouped or need > left or len(grouped[-1]) == TAPS_PER_REPLAY:
            grouped.append([])
            left = room
        grouped[-1].append(tap)
        left -= need
    return grouped


def replay(graph: Path, taps: Sequence[Tap], feeds: Sequence[Path], room: int) -> list[list[np.ndarray]]:
    """For each tap the blocks of E[x x^T], float32, over all feeds."""
    run = exposing(graph, [value for tap in taps for value in tap.values])
    sums = [[np.zeros((w, w), np.float32) for w in block_widths(tap.width, room)] for tap in taps]
    counts = [0] * len(taps)
    for i, path in enumerate(feeds):
        given = read_feeds(path)
        values = {**given, **run(given)}
        for t, tap in enumerate(taps):
            for name in tap.values:
                rows = tap.rows(values[name], np.random.default_rng(i))
                add_products(sums[t], rows)
                counts[t] += len(rows)
    return [[block / np.float32(count) for block in blocks] for blocks, count in zip(sums, counts, strict=True)]


def add_products(blocks: Sequence[np.ndarray], rows: np.ndarray) -> None:
    """Add x^T x of `rows` [n, K] to each diagonal block."""
    start = 0
    for block in blocks:
        part = rows[:, start : start + len(block)]
        block += part.T @ part
        start += len(block)


def exposing(graph: Path, values: Sequence[str]) -> Callable[[Feeds], Feeds]:
    """The graph with more outputs: all `values` that are not among its inputs anyway."""
    model = ir.load(graph)
    known = {str(v.name) for v in (*model.graph.inputs, *model.graph.outputs)}
    by_name = {str(output.name): output for node in model.graph for output in node.outputs}
    for name in dict.fromkeys(values):
        if name not in known:
            by_name[name].type = ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(by_name[name])
    path = graph.with_name(OBSERVED)  # beside the weights, whose file it shares
    ir.save(model, path)
    loaded = Graph(path, ["CPUExecutionProvider"])
    path.unlink()
    return loaded


def save(path: Path, blocks: Sequence[np.ndarray]) -> None:
    partial = path.with_name(f".{path.name}")
    with partial.open("wb") as handle:
        np.savez(handle, *blocks)
    os.replace(partial, path)
