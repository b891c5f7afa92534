"""models and export: what there is, and how a bundle is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from qsched_edge.choices import DECODERS, Choices
from qsched_edge.cli.options import (
    OBSERVING,
    PARTS,
    PRECISION,
    WHAT,
    Force,
    Json,
    MaxRam,
    Output,
    Quiet,
    needing,
    one_of,
    option,
    show,
)
from qsched_edge.export.settings import ExportSettings, target_of
from qsched_edge.observe.settings import ObservedPrompts
from qsched_edge.precision import Scheme
from qsched_edge.quantize.methods import METHODS
from qsched_edge.work.memory import RamLimit, parse_bytes

DEFAULT = ExportSettings()


def models(as_json: Json = False) -> None:
    """List the recipes: name, licence, steps, source."""
    from qsched_edge.checkpoint.recipes import read_recipe, recipe_names

    recipes = [read_recipe(path) for path in recipe_names().values()]
    rows = [
        {
            "name": r.name,
            "title": r.title,
            "license": r.license,
            "steps": list(r.steps),
            "source": str(r.path(r.source)),
        }
        for r in recipes
    ]
    show(rows, as_json, "\n".join(f"{r['name']:20} {r['license']:14} {r['title']}" for r in rows))


def export(
    model: Annotated[str, option("Recipe name, recipe file, diffusers folder or hub id.", WHAT, "-m", "--model")],
    bits: Annotated[
        int | None, option("Bits per weight: 2, 3, 4, 8, 16 or 32 (default: the recipe's).", PRECISION)
    ] = None,
    method: Annotated[
        str | None, one_of(METHODS, "Quantizer; smoothquant is for W8A8 (default: the recipe's).", PRECISION)
    ] = None,
    activation_bits: Annotated[
        int, option("Bits of what layers compute with: 8 or 16 (as is).", PRECISION)
    ] = DEFAULT.activation_bits,
    target_size: Annotated[
        str | None, option("Choose the width of each of the backbone's weights: bytes of all, such as 500M.", PRECISION)
    ] = None,
    target_ratio: Annotated[
        float | None, option("The same, as the bytes in FP16 over the bytes stored, such as 3.6.", PRECISION)
    ] = None,
    precision_map: Annotated[
        Path | None, option("Widths of single weights: a bundle's precision.toml.", PRECISION)
    ] = None,
    calib_prompts: Annotated[
        Path | None, option("Prompts that all but rtn observe the model with (default: the recipe's).", OBSERVING)
    ] = DEFAULT.observed.prompts,
    calib_count: Annotated[
        int, option("How many of them to draw; 0: observe nothing.", OBSERVING)
    ] = DEFAULT.observed.count,
    encoder: Annotated[
        bool, option("Bring the VAE encoder, to start from pictures.", PARTS, "--encoder")
    ] = DEFAULT.choices.encoder,
    decoder: Annotated[
        str, one_of(DECODERS, "tiny where the recipe names a tiny decoder.", PARTS)
    ] = DEFAULT.choices.decoder,
    max_ram: MaxRam = None,
    output: Output = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Capture, quantize and bundle a model; all Q-Sched coefficients are one."""
    from qsched_edge.checkpoint.recipes import read_layers, resolve

    Scheme(DEFAULT.bits if bits is None else bits, activation_bits=activation_bits)  # refused before anything is read
    ram = RamLimit(parse_bytes(max_ram) if max_ram else None)
    target = target_of(parse_bytes(target_size) if target_size else None, target_ratio)
    layers = read_layers(precision_map) if precision_map else None
    spec = resolve(model)
    if layers:
        spec = replace(spec, recipe=replace(spec.recipe, layers=layers))
    settings = ExportSettings(
        bits=spec.recipe.bits if bits is None else bits,
        method=method or spec.recipe.method,
        choices=Choices(encoder, decoder),
        ram=ram,
        activation_bits=activation_bits,
        observed=ObservedPrompts(calib_prompts, calib_count),
        target=target,
    )
    with needing("export"):
        from qsched_edge.export.run import export as run_export

    folder = output or Path(f"{spec.recipe.name}-{settings.suffix}")
    run_export(spec, settings, folder, force, quiet)
    from qsched_runtime import manifest

    from qsched_edge.bundle.write import bundle_bytes

    print(f"{folder}: {bundle_bytes(manifest.read(folder)):,} bytes")
