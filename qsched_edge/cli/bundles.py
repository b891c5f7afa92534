"""models, export, run, verify: what there is, how a bundle is made, drawn with and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from qsched_edge.choices import DECODERS, Choices
from qsched_edge.cli.options import (
    CPU,
    OBSERVING,
    OUTPUT,
    PARTS,
    PICTURE,
    PRECISION,
    WHAT,
    Bundle,
    Force,
    Json,
    MaxRam,
    Memory,
    Output,
    Provider,
    Quiet,
    needing,
    one_of,
    option,
    show,
)
from qsched_edge.errors import PromptsError
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


def run(
    bundle: Bundle,
    prompt: Annotated[list[str], option("What to draw; repeat for several pictures.", PICTURE, "-p", "--prompt")],
    output: Annotated[Path, option("PNG file (several prompts: NAME-0.png, ...).", OUTPUT, "-o", "--output")],
    seed: Annotated[int, option("Noise seed, as torch's CPU generator understands it.", PICTURE)] = 0,
    steps: Annotated[int | None, option("Number of steps (default: the bundle's).", PICTURE)] = None,
    guidance_scale: Annotated[float | None, option("Guidance scale (default: the bundle's).", PICTURE)] = None,
    negative_prompt: Annotated[
        str | None, option("What to avoid, where the model is guided.", PICTURE, show_default=False)
    ] = None,
    height: Annotated[int | None, option("Pixels.", PICTURE)] = None,
    width: Annotated[int | None, option("Pixels.", PICTURE)] = None,
    memory: Memory = "low",
    provider: Provider = CPU,
    force: Force = False,
) -> None:
    """Draw a picture with the shipped runtime."""
    from qsched_runtime import Sampler, png_bytes

    from qsched_edge.work.staging import refuse_existing, write_bytes

    names = [output] if len(prompt) == 1 else [output.with_stem(f"{output.stem}-{i}") for i in range(len(prompt))]
    for name in names:
        refuse_existing(name, force)
    for text in (*prompt, negative_prompt or ""):
        check_text(text)
    sampler = Sampler.from_pretrained(bundle, providers=provider, memory=memory)
    drawn = sampler(
        prompt,
        seed=seed,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        height=height,
        width=width,
    )
    for name, image in zip(names, drawn.images, strict=True):
        write_bytes(name, png_bytes(image))
        print(name)


def verify(bundle: Bundle) -> None:
    """Check a bundle's hashes, schedules and self-test on this machine."""
    from qsched_edge.bundle.verify import verify as check
    from qsched_edge.bundle.write import bundle_bytes

    manifest = check(bundle)
    print(f"{bundle}: {len(manifest.files)} files, {bundle_bytes(manifest):,} bytes, all as the manifest says")


def check_text(prompt: str) -> None:
    """Python hands on what is no UTF-8 on the command line as lone surrogates, which no tokenizer reads."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise PromptsError(f"prompt {prompt!a} is not UTF-8 text (character {error.start})") from error
