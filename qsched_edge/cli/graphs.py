"""quantize and inspect: any ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from qsched_edge.cli.options import (
    OUTPUT,
    PRECISION,
    WHAT,
    Force,
    Json,
    MaxRam,
    Quiet,
    needing,
    one_of,
    option,
    show,
)
from qsched_edge.foreign.settings import QuantizeSettings
from qsched_edge.precision import Scheme
from qsched_edge.quantize.methods import METHODS
from qsched_edge.work.memory import RamLimit, parse_bytes

DEFAULT = QuantizeSettings()


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """What `qsched-edge quantize` is given."""

    graph: Annotated[Path, typer.Argument(help="ONNX graph of opset 11 or newer.", show_default=False)]
    output: Annotated[Path, option("Graph to write; large ones get a _data file.", OUTPUT, "-o", "--output")]
    bits: Annotated[int, option("Bits per weight: 2, 3, 4, 8 or 16.", PRECISION)] = DEFAULT.scheme.weight_bits
    group_size: Annotated[int, option("Weights that share a scale: 16 to 256, or 0 for a channel.", PRECISION)] = (
        DEFAULT.scheme.group_size
    )
    symmetric: Annotated[bool, option("Zero points in the middle of the range.", PRECISION, "--symmetric")] = (
        DEFAULT.scheme.symmetric
    )
    method: Annotated[str, one_of(METHODS, "Quantizer: rtn rounds to nearest, mse searches scales.", PRECISION)] = (
        DEFAULT.scheme.method
    )
    activation_bits: Annotated[int, option("Bits of what layers compute with: 8 or 16 (as is).", PRECISION)] = (
        DEFAULT.scheme.activation_bits
    )
    inputs: Annotated[Path | None, option("Arrays by input name (.npz) to measure the error on.", WHAT)] = (
        DEFAULT.inputs
    )
    seed: Annotated[int, option("Seed of random inputs, where none are given.", WHAT)] = DEFAULT.seed
    max_ram: MaxRam = None
    force: Force = False
    quiet: Quiet = False
    as_json: Json = False


def quantize(given: QuantizeOptions) -> None:
    """Quantize any ONNX graph, and print what was quantized, what was not and why, sizes and the output error."""
    settings = QuantizeSettings(
        scheme=Scheme(given.bits, given.group_size, given.symmetric, given.method, given.activation_bits),
        inputs=given.inputs,
        seed=given.seed,
        ram=RamLimit(parse_bytes(given.max_ram) if given.max_ram else None),
    )
    with needing("quantize"):
        from qsched_edge.foreign.run import quantize as run_quantize
    report = run_quantize(given.graph, given.output, settings, given.force, given.quiet)
    show(report.json(), given.as_json, report.text())


def inspect(
    target: Annotated[Path, typer.Argument(help="ONNX graph or folder of a bundle.", show_default=False)],
    as_json: Json = False,
) -> None:
    """List a graph's or a bundle's weights: kind, shape, bits, bytes, and their shares of the whole."""
    with needing("quantize"):
        from qsched_edge.foreign.inspection import inspect as run_inspect
    result = run_inspect(target)
    show(result.json(), as_json, result.text())
