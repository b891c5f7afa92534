"""Quantization methods on one model: `python -m benchmarks.methods emoji -o DIR` writes methods.md and methods.json.

For every cell: bytes of the backbone; relative error of the network output where the 32-bit model's trajectory passes,
and of the final latents, both against 32 bits with the same noise on held-out prompts; concept accuracy and Fréchet
distance, with paired bootstrap intervals of the differences to round-to-nearest of the same bits and group size.
A stopped run goes on at the cell where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Coefficients, Sampler
from qsched_runtime import manifest as manifests
from qsched_runtime.sampler import draw

from qsched_edge import bundle as bundles
from qsched_edge.calibrate.run import judge_of
from qsched_edge.evaluate import cells
from qsched_edge.evaluate.run import classifier_of, differences, flat
from qsched_edge.evaluate.sizes import fp16_bytes
from qsched_edge.export import Calibration, ExportSettings, export, target_of
from qsched_edge.intervals import paired_difference
from qsched_edge.prompts import read_prompts
from qsched_edge.recipes import ModelSpec, read_json, resolve
from qsched_edge.staging import Staging, write_json, write_text


@dataclass(frozen=True)
class Variant:
    """One row of the table; `base` names the row its pictures are compared with."""

    name: str
    bits: int = 4
    method: str = "rtn"
    group_size: int = 64
    ratio: float | None = None
    base: str = "rtn W4 g64"


VARIANTS = (
    Variant("FP32", 32),
    Variant("rtn W8 g64", 8),
    Variant("rtn W4 g64"),
    Variant("mse W4 g64", method="mse"),
    Variant("gptq W4 g64", method="gptq"),
    Variant("rtn W4 g32", group_size=32, base="rtn W4 g32"),
    Variant("gptq W4 g32", method="gptq", group_size=32, base="rtn W4 g32"),
    Variant("rtn W4 g128", group_size=128, base="rtn W4 g128"),
    Variant("gptq W4 g128", method="gptq", group_size=128, base="rtn W4 g128"),
    Variant("rtn mixed 3.2x", ratio=3.2),
    Variant("gptq mixed 3.2x", method="gptq", ratio=3.2),
)


@dataclass(frozen=True)
class Study:
    """What all cells share: held-out prompts, seeds of each, prompts to observe."""

    spec: ModelSpec
    prompts: tuple[str, ...]
    seeds: int
    calib_count: int


def batches(prompts: Sequence[str]) -> Iterator[tuple[list[str], list[int]]]:
    for start in range(0, len(prompts), cells.BATCH):
        some = list(prompts[start : start + cells.BATCH])
        yield some, [cells.REPORT_SEEDS + start + i for i in range(len(some))]


def relative_errors(reference: Sampler, sampler: Sampler, prompts: Sequence[str]) -> dict[str, list[float]]:
    """|e' - e| / |e| of every prompt: over all steps at the reference's own latents, and of the final latents."""
    found: dict[str, list[float]] = {"output": [], "latents": []}
    for some, seeds in batches(prompts):
        conditioning, schedule = reference.condition(some), reference.schedule()
        streams = reference.streams(seeds, len(seeds))
        x = draw(streams, conditioning.shape) * np.float32(schedule.table.init_noise_sigma)
        wrong, energy = np.zeros(len(some)), np.zeros(len(some))
        for step in reference.trajectory(x, conditioning, schedule, streams):
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


def write_bundle(study: Study, variant: Variant, folder: Path) -> Path:
    """`folder`/bundle, unless an interrupted run has finished it."""
    recipe = replace(study.spec.recipe, group_size=variant.group_size)
    target = target_of(None, variant.ratio)
    settings = ExportSettings(
        variant.bits, variant.method, calibration=Calibration(count=study.calib_count), target=target
    )
    if not (folder / "bundle").exists():
        export(replace(study.spec, recipe=recipe), settings, folder / "bundle")
    return folder / "bundle"


def write_cell(study: Study, variant: Variant, reference: Path | None, folder: Path) -> None:
    """Export the variant, measure it, keep the numbers; the bundle stays only where it is the reference."""
    path = write_bundle(study, variant, folder)
    manifest, sampler = manifests.read(path), Sampler.from_pretrained(path)
    known = Sampler.from_pretrained(reference) if reference else sampler
    half = fp16_bytes(study.spec, ExportSettings().choices)[manifest.backbone]
    size = bundles.component_bytes(manifest, manifest.backbone)
    errors = relative_errors(known, sampler, study.prompts)
    write_json(folder / "numbers.json", {"bytes": size, "ratio": half / size, "errors": errors})
    steps = manifest.default_steps
    judges = judge_of(study.spec.recipe), classifier_of(study.spec)
    measured = cells.measure(
        sampler, Coefficients.identity(steps), judges, study.prompts, study.seeds, 0, lambda n: None
    )
    measured.save(folder / "cell.npz")
    if reference:
        shutil.rmtree(path)


def row_of(folders: dict[str, Path], variant: Variant, study: Study) -> dict[str, Any]:
    """The numbers of one row: means, and paired differences to its base with intervals."""
    numbers, base = (read_json(folders[name] / "numbers.json") for name in (variant.name, variant.base))
    cell, before = (cells.Cell.load(folders[name] / "cell.npz") for name in (variant.name, variant.base))
    frechet = classifier_of(study.spec).frechet
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
        "top1": float(cell.metrics["top1"].mean()),
        "frechet": frechet(flat(cell.features)),
        "differences": {**gains, **differences(cell, before, frechet)},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; differences to the base row in brackets with their 95 % intervals."""
    lines = [
        "| variant | backbone bytes | FP16 over it | output error | latents error | top-1 | Fréchet |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        columns = [f"{row[kind]:.4f} ({interval(row, kind, '.4f')})" for kind in ("output", "latents")]
        columns += [f"{row['top1']:.1%} ({interval(row, 'top1', '.1%')})"]
        columns += [f"{row['frechet']:.2f} ({interval(row, 'frechet', '.2f')})"]
        lines.append(f"| {row['name']} | {row['bytes']:,} | {row['ratio']:.2f} | {' | '.join(columns)} |")
    note = "\nIn brackets: 95 % interval of the paired difference to round-to-nearest of the same bits and groups.\n"
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
    parser.add_argument("--only", nargs="*", help="names of variants (and FP32 and their bases)")
    given = parser.parse_args()
    spec = resolve(given.model)
    heldout = read_prompts(spec.recipe.path(spec.recipe.heldout))
    study = Study(spec, heldout.first(given.prompts), given.seeds, given.calib_count)
    names = {"FP32", "rtn W4 g64", *(given.only or [v.name for v in VARIANTS])}
    names |= {v.base for v in VARIANTS if v.name in names}
    chosen = [v for v in VARIANTS if v.name in names]
    arguments = {"model": str(spec.folder), "settings": [given.prompts, given.seeds, given.calib_count]}
    with Staging(given.output, {**arguments, "prompts": heldout.sha256}, force=True) as staging:
        reference = staging.part("FP32", partial(write_cell, study, VARIANTS[0], None)) / "bundle"
        folders = {
            v.name: staging.part(v.name, partial(write_cell, study, v, reference if v.bits != 32 else None))
            for v in chosen
        }
        rows = [row_of(folders, variant, study) for variant in chosen]
        write_json(staging.folder / "methods.json", rows)
        write_text(staging.folder / "methods.md", table(rows))
        staging.drop(v.name for v in VARIANTS if (staging.folder / v.name).exists())
    print((given.output / "methods.md").read_text(), json.dumps({"prompts": given.prompts, "seeds": given.seeds}))


if __name__ == "__main__":
    main()
