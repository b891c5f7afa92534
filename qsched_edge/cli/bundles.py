"""models, recipe, export: what there is, how a model is described, and how a bundle is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qsched_edge.choices import DECODERS, Choices
from qsched_edge.cli.options import (
    OBSERVING,
    OUTPUT,
    PARTS,
    PICTURE,
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

if TYPE_CHECKING:
    from qsched_edge.checkpoint.recipes import ModelSpec

DEFAULT = ExportSettings()
Model = Annotated[str, option("Recipe name, recipe file, diffusers folder or hub id.", WHAT, "-m", "--model")]
Steps = Annotated[
    str | None,
    option("Step counts beside 1 to 8, the first is the default: 4 or 1,2,4,25.", PICTURE, show_default=False),
]
Scale = Annotated[float | None, option("Default guidance scale.", PICTURE, show_default=False)]
Height = Annotated[int | None, option("Default pixels.", PICTURE, show_default=False)]
Width = Annotated[int | None, option("Default pixels.", PICTURE, show_default=False)]
Scheduler = Annotated[str | None, option("Another stock scheduler, such as LCMScheduler.", PICTURE, show_default=False)]
Base = Annotated[
    str | None,
    option("Of a single file: the model that has the parts it lacks.", WHAT, show_default=False),
]
Lora = Annotated[
    str | None, option("LoRA to fuse: a safetensors file, here or OWNER/NAME/FILE.", WHAT, show_default=False)
]
LoraScale = Annotated[float | None, option("How much of it.", WHAT, show_default=False)]
Words = Annotated[
    list[str],
    option(
        "Learned word: a safetensors file, here or OWNER/NAME/FILE, or WORD=FILE to name it. Repeat for several.",
        WHAT, "--textual-inversion", show_default=False,
    ),
]  # fmt: skip
GroupSize = Annotated[
    int | None,
    option("Weights that share a scale: 16 to 256; 0: a whole output channel.", PRECISION, show_default=False),
]
Symmetric = Annotated[
    bool | None,
    option(
        "Zero points in the middle of the range, or one for each group.",
        PRECISION,
        "--symmetric/--asymmetric",
        show_default=False,
    ),
]


def models(as_json: Json = False) -> None:
    """List the recipes: name, licence, step counts, parameters of the backbone, bytes at 4 bits, memory to run a step.

    Parameters and bytes are computed from the architecture. Memory is the measured peak of a step where its picture's
    side stands behind it, else the largest network's bytes (with ">"). "-": the architecture is only in the checkpoint.
    """
    from qsched_edge.checkpoint.figures import figures_of, steps_of
    from qsched_edge.checkpoint.recipes import shipped_recipes

    rows = [
        {
            "name": r.name,
            "title": r.title,
            "license": r.license,
            "source": str(r.path(r.source)) if r.path(r.source).exists() else r.source,
            "steps": list(steps_of(r)),
            **(asdict(found) if (found := figures_of(r)) else {}),
        }
        for r in shipped_recipes().values()
    ]
    show(rows, as_json, models_table(rows))


def models_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in columns of 100 characters together."""
    cells = [("name", "licence", "steps", "parameters", "at 4 bits", "memory")]
    for row in rows:
        steps = ",".join(map(str, row["steps"])) or "-"
        sizes = ("-", "-", "-")
        if "w4_bytes" in row:
            side, ram = row["ram_measured_at"], f"{row['ram_bytes'] / 1e9:.2f} GB"
            at_step = f"{ram} ({side})" if side else f"> {ram}"
            sizes = (f"{row['backbone_parameters'] / 1e9:.2f} B", f"{row['w4_bytes'] / 1e9:.2f} GB", at_step)
        cells.append((row["name"], row["license"], steps, *sizes))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def recipe(
    model: Annotated[str, typer.Argument(help="Recipe name, recipe file, diffusers folder or hub id.")],
    output: Annotated[Path | None, option("TOML file (default: print it).", OUTPUT, "-o", "--output")] = None,
    force: Force = False,
) -> None:
    """Write the recipe that a model is exported by, all defaults spelled out: a start for one of your own."""
    from qsched_edge.checkpoint.recipes import resolve
    from qsched_edge.checkpoint.written import as_toml
    from qsched_edge.work.staging import check_output, write_text

    if output is None:
        print(as_toml(resolve(model).recipe), end="")
        return
    check_output(output, force)
    write_text(output, as_toml(resolve(model).recipe))
    print(output)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What `qsched-edge export` is given."""

    model: Model
    bits: Annotated[int | None, option("Bits per weight: 2, 3, 4, 8, 16 or 32 (default: the recipe's).", PRECISION)] = (
        None
    )
    method: Annotated[
        str | None, one_of(METHODS, "Quantizer; smoothquant is for W8A8 (default: the recipe's).", PRECISION)
    ] = None
    activation_bits: Annotated[int, option("Bits of what layers compute with: 8 or 16 (as is).", PRECISION)] = (
        DEFAULT.activation_bits
    )
    target_size: Annotated[
        str | None, option("Choose the width of each of the backbone's weights: bytes of all, such as 500M.", PRECISION)
    ] = None
    target_ratio: Annotated[
        float | None, option("The same, as the bytes in FP16 over the bytes stored, such as 3.6.", PRECISION)
    ] = None
    precision_map: Annotated[Path | None, option("Widths of single weights: a bundle's precision.toml.", PRECISION)] = (
        None
    )
    calib_prompts: Annotated[
        Path | None, option("Prompts that all but rtn observe the model with (default: the recipe's).", OBSERVING)
    ] = DEFAULT.observed.prompts
    calib_count: Annotated[int, option("How many of them to draw; 0: observe nothing.", OBSERVING)] = (
        DEFAULT.observed.count
    )
    steps: Steps = None
    guidance_scale: Scale = None
    height: Height = None
    width: Width = None
    scheduler: Scheduler = None
    base: Base = None
    lora: Lora = None
    lora_scale: LoraScale = None
    textual_inversion: Words = field(default_factory=list)
    group_size: GroupSize = None
    symmetric: Symmetric = None
    encoder: Annotated[bool, option("Bring the VAE encoder, to start from pictures.", PARTS, "--encoder")] = (
        DEFAULT.choices.encoder
    )
    decoder: Annotated[str, one_of(DECODERS, "tiny where the recipe names a tiny decoder.", PARTS)] = (
        DEFAULT.choices.decoder
    )
    portable: Annotated[
        bool, option("Attention in ONNX's own operators: slower, for runtimes beside onnxruntime.", PARTS, "--portable")
    ] = DEFAULT.portable
    max_ram: MaxRam = None
    output: Output = None
    force: Force = False
    quiet: Quiet = False
    as_json: Json = False


def export(given: ExportOptions) -> None:
    """Capture, quantize and bundle a model; all Q-Sched coefficients are one."""
    bits = DEFAULT.bits if given.bits is None else given.bits
    Scheme(bits, activation_bits=given.activation_bits)  # refused before anything is read
    ram = RamLimit(parse_bytes(given.max_ram) if given.max_ram else None)
    target = target_of(parse_bytes(given.target_size) if given.target_size else None, given.target_ratio)
    spec = model_asked_for(given)
    settings = ExportSettings(
        bits=spec.recipe.bits if given.bits is None else given.bits,
        method=given.method or spec.recipe.method,
        choices=Choices(given.encoder, given.decoder),
        ram=ram,
        activation_bits=given.activation_bits,
        observed=ObservedPrompts(given.calib_prompts, given.calib_count),
        target=target,
        portable=given.portable,
    )
    with needing("export"):
        from qsched_edge.export.run import export as run_export

    folder = given.output or Path(f"{spec.recipe.name}-{settings.suffix}")
    run_export(spec, settings, folder, given.force, given.quiet)
    summary = summary_of(folder)
    show(summary, given.as_json, summary_table(summary))


def model_asked_for(given: ExportOptions) -> ModelSpec:
    """The model with what the options say in the place of its recipe's words."""
    from qsched_edge.checkpoint.recipes import Overrides, read_layers, resolve

    layers = read_layers(given.precision_map) if given.precision_map else None
    said = Overrides(
        steps=step_counts(given.steps) if given.steps else None,
        guidance=given.guidance_scale,
        height=given.height,
        width=given.width,
        scheduler=given.scheduler,
        lora=given.lora,
        lora_scale=given.lora_scale,
        group_size=given.group_size,
        symmetric=given.symmetric,
        textual_inversion=tuple(given.textual_inversion) or None,
        base=given.base,
    )
    spec = resolve(given.model, said)
    return replace(spec, recipe=replace(spec.recipe, layers=layers)) if layers else spec


def step_counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"--steps {text}: give numbers, such as 4 or 1,2,4,25") from error


def summary_of(folder: Path) -> dict[str, Any]:
    """What was resolved and what it weighs."""
    from qsched_runtime import manifest

    from qsched_edge.bundle.write import bundle_bytes, component_bytes

    found = manifest.read(folder)
    return {
        "bundle": str(folder),
        "bytes": bundle_bytes(found),
        "recipe": found.name,
        "steps": found.default_steps,
        "schedules": sorted(found.schedules),
        "guidance": found.guidance.default,
        "components": {
            name: {"precision": component["precision"], "bytes": component_bytes(found, name)}
            for name, component in found.raw["components"].items()
        },
    }


def summary_table(summary: dict[str, Any]) -> str:
    """The components, then one line with the sum."""
    rows = [f"{name:16} {c['precision']:6} {c['bytes']:>16,}" for name, c in summary["components"].items()]
    how = f"{summary['steps']} steps, guidance {summary['guidance']:g}, recipe {summary['recipe']}"
    return "\n".join(
        [f"{'component':16} {'':6} {'bytes':>16}", *rows, f"{summary['bundle']}: {summary['bytes']:,} bytes, {how}"]
    )
