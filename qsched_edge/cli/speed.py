"""bench: how fast a bundle draws here, and with how much memory."""

from __future__ import annotations

from typing import Annotated

import typer

from qsched_edge.cli.options import (
    NO_PROVIDERS,
    PICTURE,
    Bundle,
    DecoderTile,
    Device,
    Json,
    Memory,
    Provider,
    Quiet,
    Threads,
    option,
    show,
)


def bench(
    bundle: Bundle,
    repeats: Annotated[
        int, typer.Option(help="Pictures to measure, after one that does not count.", min=1, rich_help_panel=PICTURE)
    ] = 5,
    steps: Annotated[int | None, option("Number of steps (default: the bundle's).", PICTURE)] = None,
    height: Annotated[int | None, option("Pixels.", PICTURE)] = None,
    width: Annotated[int | None, option("Pixels.", PICTURE)] = None,
    device: Device = "cpu",
    provider: Provider = NO_PROVIDERS,
    memory: Memory = "auto",
    decoder_tile: DecoderTile = None,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure a bundle here: load, seconds a picture by network with their spread, memory, bytes."""
    from qsched_edge.bundle.bench import BenchSettings, bench_bundle
    from qsched_edge.work.progress import saying

    place = {"device": device, "providers": provider or None, "memory": memory, "threads": threads}
    with saying(f"loading {bundle} and drawing {repeats + 1} pictures", quiet):
        found = bench_bundle(
            bundle, {**place, "decoder_tile": decoder_tile}, BenchSettings(repeats, steps, height, width)
        )
    show({**found.json(), "device": device, "memory": memory, "threads": threads}, as_json, found.text())
