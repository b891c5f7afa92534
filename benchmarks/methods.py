"""Quantization methods on one model: `python -m benchmarks.methods emoji -o DIR` writes methods.md and methods.json.

For every cell: bytes of the backbone; relative error of the network output where the 32-bit model's trajectory passes,
and of the final latents, both against 32 bits with the same noise on held-out prompts; concept accuracy and Fréchet
distance, with paired bootstrap intervals of the differences to the variant's base, another row of the table.
A stopped run goes on at the cell where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from qsched_runtime import Coefficients, Sampler
from qsched_runtime import manifest as manifests

from benchmarks.remembered import captures_remembered
from qsched_edge import noise
from qsched_edge.bundle import write as bundles
from qsched_edge.calibrate.inputs import terms_of
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import ModelSpec, read_json, resolve
from qsched_edge.evaluate import cells
from qsched_edge.evaluate.contrasts import contrast
from qsched_edge.evaluate.judging import report_panel
from qsched_edge.evaluate.sizes import fp16_bytes
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings, target_of
from qsched_edge.intervals import paired_difference
from qsched_edge.jaq.panel import Resampled
from qsched_edge.jaq.settings import JudgeSource
from qsched_edge.observe.observation import Observation, write_feeds, write_moments
from qsched_edge.observe.settings import ObservedPrompts
from qsched_edge.precision import CHANNEL
from qsched_edge.prompts import read_prompts
from qsched_edge.quantize.rewrite import GRAPH
from qsched_edge.work.memory import RamLimit
from qsched_edge.work.staging import Staging, write_json, write_text

REFERENCE, BASE = "FP32", "rtn W4 g64"


@dataclass(frozen=True)
class Variant:
    """One row of the table. `base` names the row it is compared with; `ratio` lets widths be chosen by weight for
    FP16 over the bytes, `bytes_of` for no more bytes than the row of that name has."""

    name: str
    bits: int = 4
    method: str = "rtn"
    group_size: int = 64
    ratio: float | None = None
    base: str = BASE
    activation_bits: int = 16
    symmetric: bool = False
    bytes_of: str = ""


VARIANTS = (
    Variant(REFERENCE, 32),
    Variant("rtn W8 g64", 8),
    Variant("rtn W8A8 g64", 8, activation_bits=8, base="rtn W8 g64"),
    Variant(BASE),
    Variant("mse W4 g64", method="mse"),
    Variant("gptq W4 g64", method="gptq"),
    Variant("rtn W4 g32", group_size=32),
    Variant("gptq W4 g32", method="gptq", group_size=32, base="rtn W4 g32"),
    Variant("rtn W4 g128", group_size=128),
    Variant("gptq W4 g128", method="gptq", group_size=128, base="rtn W4 g128"),
    Variant("rtn mixed g64, bytes of W4 g32", bytes_of="rtn W4 g32", base="rtn W4 g32"),
    Variant("gptq mixed g64, bytes of W4 g32", method="gptq", bytes_of="rtn W4 g32", base="gptq W4 g32"),
    Variant("rtn W4A8 g64", activation_bits=8),
    Variant("rtn W4 g64 symmetric", symmetric=True),
    Variant("rtn W3 g64", 3),
    Variant("gptq W3 g64", 3, "gptq", base="rtn W3 g64"),
    Variant("rtn W2 g64", 2),
    Variant("gptq W2 g64", 2, "gptq", base="rtn W2 g64"),
    Variant("rtn W4 g16", group_size=16),
    Variant("rtn W4 by channel", group_size=CHANNEL),
    Variant("rtn mixed g128, bytes of W4 g64", group_size=128, bytes_of=BASE),
    Variant("gptq mixed g128, bytes of W4 g64", method="gptq", group_size=128, bytes_of=BASE, base="gptq W4 g64"),
    Variant("gptq W4 g64 symmetric", method="gptq", symmetric=True, base="gptq W4 g64"),
)


def needed(names: Iterable[str]) -> list[Variant]:
    """The variants of these names with all that they are compared with or sized after, in the table's order."""
    known, found, left = {v.name: v for v in VARIANTS}, {REFERENCE}, set(names)
    while left:
        found |= left
        left = {n for name in left for n in (known[name].base, known[name].bytes_of) if n} - found
    return [v for v in VARIANTS if v.name in found]


@dataclass(frozen=True)
class Study:
    """What all cells share: the model, held-out prompts and seeds of each; how the model is observed, and where that
    has been done (None: not yet)."""

    spec: ModelSpec
    prompts: tuple[str, ...]
    seeds: int
    calibration: ObservedPrompts
    observation: Observation | None = None


def batches(prompts: Sequence[str]) -> Iterator[tuple[list[str], list[int]]]:
    for start in range(0, len(prompts), cells.CELL_BATCH):
        some = list(prompts[start : start + cells.CELL_BATCH])
        yield some, [noise.reporting(0, start + i) for i in range(len(some))]


def relative_errors(reference: Sampler, sampler: Sampler, prompts: Sequence[str]) -> dict[str, list[float]]:
    """|e' - e| / |e| of every prompt: over all steps at the reference's own latents, and of the final latents."""
    found: dict[str, list[float]] = {"output": [], "latents": []}
    for some, seeds in batches(prompts):
        conditioning, schedule = reference.condition(some), reference.schedule()
        streams = reference.streams(seeds, len(seeds))
        wrong, energy = np.zeros(len(some)), np.zeros(len(some))
        for step in reference.trajectory(conditioning, schedule, streams):
            x_in, t = schedule.scale_model_input(step.x, step.i), schedule.table.timesteps[step.i]
            wrong += squares(sampler.network_output(x_in, t, conditioning) - step.e)
            energy += squares(step.e)
        latents = sampler(some, seed=seeds).latents
        found["output"] += np.sqrt(wrong / energy).tolist()
        found["latents"] += np.sqrt(squares(latents - step.x_next) / squares(step.x_next)).tolist()
    return found


def squares(x: np.ndarray) -> np.ndarray:
    """float64 [B]: the sum of squares of each picture's values."""
    return np.square(x, dtype=np.float64).reshape(len(x), -1).sum(axis=1)


def observed(study: Study, reference: Path, staging: Staging) -> Observation:
    """What an export would gather itself, gathered once for all of them."""
    prompts, count = study.calibration.prompt_set(study.spec), study.calibration.count
    feeds = staging.part("feeds", partial(write_feeds, reference, prompts, count, False))
    found = Observation(reference, feeds, None)
    components = list(manifests.read(reference).components)
    moments = staging.part("moments", partial(write_moments, found, components, RamLimit(), False))
    return replace(found, moments=moments)


def write_bundle(study: Study, variant: Variant, size: int | None, folder: Path) -> Path:
    """`folder`/bundle, unless an interrupted run has finished it; `size` is the most its weights may take."""
    recipe = replace(study.spec.recipe, group_size=variant.group_size, symmetric=variant.symmetric)
    settings = ExportSettings(
        variant.bits,
        variant.method,
        activation_bits=variant.activation_bits,
        observed=study.calibration,
        target=target_of(size, variant.ratio),
        portable=variant.name == REFERENCE,  # smoothquant's Neural Compressor reads ONNX's own operators
    )
    if not (folder / "bundle").exists():
        export(replace(study.spec, recipe=recipe), settings, folder / "bundle", observation=study.observation)
    return folder / "bundle"


def weight_bytes(graph: Path) -> int:
    """Values, scales and zero points of all the graph's tensors, without alignment and without the graph itself."""
    return sum(v.const_value.nbytes for v in ir.load(graph).graph.initializers.values() if v.const_value is not None)


def write_cell(study: Study, variant: Variant, folder: Path) -> None:
    """Export the variant, measure it, keep the numbers; the bundle stays only where it is the reference.

    The cells of the reference and of the row that `bytes_of` names are finished and lie beside `folder`."""
    sized = read_json(folder.parent / variant.bytes_of / "numbers.json")["weights"] if variant.bytes_of else None
    path = write_bundle(study, variant, sized, folder)
    manifest, sampler = manifests.read(path), Sampler.from_pretrained(path)
    reference = variant.name == REFERENCE
    known = sampler if reference else Sampler.from_pretrained(folder.parent / REFERENCE / "bundle")
    half = fp16_bytes(study.spec, ExportSettings().choices)[manifest.backbone]
    size = bundles.component_bytes(manifest, manifest.backbone)
    numbers = {"bytes": size, "weights": weight_bytes(path / manifest.backbone / GRAPH), "ratio": half / size}
    errors = relative_errors(known, sampler, study.prompts)
    write_json(folder / "numbers.json", {**numbers, "errors": errors})
    steps = manifest.default_steps
    asked = asked_of(study.spec, study.prompts, study.seeds)
    cells.write_cell(sampler, Coefficients.identity(steps), folder, asked, lambda n: None)
    if not reference:
        shutil.rmtree(path)


def asked_of(spec: ModelSpec, prompts: tuple[str, ...], seeds: int) -> cells.Asked:
    """The report's judges on held-out prompts."""
    source = JudgeSource(terms=terms_of(spec.recipe, CalibrationSettings(), spec.pipeline))
    panel = report_panel(spec.recipe, prompts, source)
    return cells.Asked(panel, prompts, seeds, 0)


def sampled(folder: Path, asked: cells.Asked) -> Resampled:
    return asked.panel.sampled(cells.Cell.load(folder / cells.CELL).looks, len(asked.prompts))


def row_of(folders: dict[str, Path], variant: Variant, study: Study) -> dict[str, Any]:
    """The numbers of one row: means, and paired differences to its base with intervals."""
    numbers, base = (read_json(folders[name] / "numbers.json") for name in (variant.name, variant.base))
    asked = asked_of(study.spec, study.prompts, study.seeds)
    judged, before = (sampled(folders[name], asked) for name in (variant.name, variant.base))
    gains = {
        kind: asdict(paired_difference(np.array(numbers["errors"][kind]), np.array(base["errors"][kind]), 0))
        for kind in ("output", "latents")
    }
    return {
        "name": variant.name,
        "base": variant.base,
        "bytes": numbers["bytes"],
        "ratio": numbers["ratio"],
        **{kind: float(np.mean(numbers["errors"][kind])) for kind in gains},
        **{name: float(judged[name][0]) for name in ("top1", "frechet")},
        "differences": {**gains, **contrast(judged, before)},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; differences to the base row in brackets with their 95 % intervals."""
    lines = [
        "| variant | backbone bytes | FP16 over it | output error | latents error | top-1 | Fréchet | against |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        columns = [f"{row[kind]:.4f} ({interval(row, kind, '.4f')})" for kind in ("output", "latents")]
        columns += [f"{row['top1']:.1%} ({interval(row, 'top1', '.1%')})"]
        columns += [f"{row['frechet']:.2f} ({interval(row, 'frechet', '.2f')})"]
        columns = [row["name"], f"{row['bytes']:,}", f"{row['ratio']:.2f}", *columns, row["base"]]
        lines.append(f"| {' | '.join(columns)} |")
    note = "\nIn brackets: 95 % interval of the paired difference to the row that the last column names.\n"
    return "\n".join(lines) + "\n" + note


def interval(row: dict[str, Any], kind: str, digits: str) -> str:
    low, high = (row["differences"][kind][end] for end in ("low", "high"))
    return "base" if row["name"] == row["base"] else f"{low:+{digits}} … {high:+{digits}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calib-count", type=int, default=64)
    parser.add_argument("--only", nargs="*", choices=[v.name for v in VARIANTS], help="these rows and their bases")
    given = parser.parse_args()
    spec = resolve(given.model)
    heldout = read_prompts(spec.recipe.path(spec.recipe.heldout))
    study = Study(spec, heldout.first(given.prompts), given.seeds, ObservedPrompts(count=given.calib_count))
    first, *rest = needed(given.only or [v.name for v in VARIANTS])
    arguments = {"model": str(spec.folder), "settings": [given.prompts, given.seeds, given.calib_count]}
    with (
        captures_remembered(),
        Staging(given.output, {**arguments, "prompts": heldout.sha256}, force=True) as staging,
    ):
        folders = {first.name: staging.part(first.name, partial(write_cell, study, first))}
        study = replace(study, observation=observed(study, folders[REFERENCE] / "bundle", staging))
        folders |= {v.name: staging.part(v.name, partial(write_cell, study, v)) for v in rest}
        rows = [row_of(folders, variant, study) for variant in (first, *rest)]
        write_json(staging.folder / "methods.json", rows)
        write_text(staging.folder / "methods.md", table(rows))
        staging.drop(path.name for path in staging.folder.iterdir() if path.is_dir())
    print((given.output / "methods.md").read_text(), json.dumps({"prompts": given.prompts, "seeds": given.seeds}))


if __name__ == "__main__":
    main()
