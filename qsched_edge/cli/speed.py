"""bench: how fast a bundle draws here, and with how much memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from qsched_edge.cli.options import (
    PICTURE,
    Bundle,
    Json,
    Quiet,
    RuntimePlace,
    option,
    show,
)


@dataclass(frozen=True, kw_only=True)
class BenchOptions(RuntimePlace):
    """What `qsched-edge bench` is given."""

    bundle: Bundle
    repeats: Annotated[
        int, typer.Option(help="Pictures to measure, after one that does not count.", min=1, rich_help_panel=PICTURE)
    ] = 5
    steps: Annotated[int | None, option("Number of steps (default: the bundle's).", PICTURE)] = None
    height: Annotated[int | None, option("Pixels.", PICTURE)] = None
    width: Annotated[int | None, option("Pixels.", PICTURE)] = None
    quiet: Quiet = False
    as_json: Json = False


def bench(given: BenchOptions) -> None:
    """Measure a bundle here: load, seconds a picture by network with their spread, memory, bytes."""
    from qsched_edge.bundle.bench import BenchSettings, bench_bundle
    from qsched_edge.work.progress import saying

    settings = BenchSettings(given.repeats, given.steps, given.height, given.width)
    with saying(f"loading {given.bundle} and drawing {given.repeats + 1} pictures", given.quiet):
        found = bench_bundle(given.bundle, given.sampler, settings)
    where = {"device": given.device, "memory": given.memory, "threads": given.threads}
    show({**found.json(), **where}, given.as_json, found.text())
