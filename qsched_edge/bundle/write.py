"""qsched.json: what it says of a model, its files and its coefficients."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import ScheduleTable
from qsched_runtime import manifest as manifests
from qsched_runtime.manifest import (
    BIAS_VERSION,
    FORMAT,
    NAME,
    SHIFT_VERSION,
    VERSION,
    BundleFile,
    Manifest,
    TokenizerSpec,
    sha256,
    table_of,
)
from qsched_runtime.noise import ALGORITHM

from qsched_edge.bundle.learned import LearnedSchedule, coefficients_json
from qsched_edge.checkpoint.schedule import fingerprint, table_to_json
from qsched_edge.errors import ScheduleError
from qsched_edge.pipelines.layout import Layout
from qsched_edge.work.staging import STAMP, write_json


def manifest_json(
    name: str,
    layout: Layout,
    precision: Mapping[str, str],
    outputs: Mapping[str, tuple[str, ...]],
    tokenizers: Mapping[str, TokenizerSpec],
    schedules: Mapping[int, ScheduleTable],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """qsched.json without its file list; all coefficients are one."""
    found = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "minimum_onnxruntime": "1.24.1",
        "backbone": layout.backbone,
        "decoder": layout.decoder,
        "encoder": layout.encoder,
        "components": {
            c.name: {
                "file": f"{c.name}/model.onnx",
                "precision": precision[c.name],
                "inputs": dict(c.inputs),
                "outputs": list(outputs[c.name]),
            }
            for c in layout.components
        },
        "tokenizers": {name: tokenizer_json(t) for name, t in tokenizers.items()},
        "latents": asdict(layout.latents),
        "guidance": asdict(layout.guidance),
        "strength_rounds_up": layout.strength_rounds_up,
        "noise": {"algorithm": ALGORITHM},
        "default_steps": next(iter(schedules)),
        "schedules": {str(n): schedule_json(LearnedSchedule.stock(t), t) for n, t in schedules.items()},
        "calibration": {},
        "provenance": dict(provenance),
    }  # fmt: skip
    return {**found, "version": version_of(found)}


def schedule_json(learned: LearnedSchedule, stock: ScheduleTable) -> dict[str, Any]:
    """The table, the coefficients and, for runtimes that want no arithmetic, their product; beside them the `stock`
    scheduler's own table where the one that is sampled with is another."""
    folded, own = learned.folded(), table_to_json(stock)
    found = {
        **table_to_json(learned.table),
        "fingerprint": fingerprint(learned.table),
        **coefficients_json(learned.coefficients),
        "folded": {"a": columns(folded.a), "b": columns(folded.b)},
    }
    return found if own == table_to_json(learned.table) else {**found, STOCK: own}


def columns(folded: np.ndarray) -> list[Any]:
    """float32 [steps, 1 or channels, 1, 1] -> JSON numbers, [steps] or [steps, channels]."""
    flat = folded[:, :, 0, 0]
    return (
        [json.loads(str(v)) for v in flat[:, 0]]
        if flat.shape[1] == 1
        else [[json.loads(str(v)) for v in r] for r in flat]
    )


def list_files(folder: Path) -> list[dict[str, Any]]:
    """Path, bytes and SHA-256 of every file but qsched.json, in order of their paths."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NAME and p != folder / STAMP)
    return [file_entry(folder, p) for p in paths if not any(n.startswith(".") for n in p.relative_to(folder).parts)]


def file_entry(folder: Path, path: Path) -> dict[str, Any]:
    return asdict(BundleFile(path.relative_to(folder).as_posix(), path.stat().st_size, sha256(path)))


def bundle_bytes(manifest: Manifest) -> int:
    return sum(f.bytes for f in manifest.files)


def component_bytes(manifest: Manifest, component: str) -> int:
    return sum(f.bytes for f in manifest.files if f.path.startswith(f"{component}/"))


def backbone_hash(manifest: Manifest) -> str:
    """One hash for the backbone's graph and data: coefficients belong to these weights."""
    parts = [f.sha256 for f in manifest.files if f.path.startswith(f"{manifest.backbone}/model.onnx")]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


LEARNED = ("c_x", "c_eps", "bias", "folded")  # of a schedule
STOCK = "stock"  # a schedule's table before a calibration chose another


def stock_json(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """A stored schedule without all that was learned."""
    kept = {k: v for k, v in schedule.items() if k not in (*LEARNED, STOCK)}
    if STOCK not in schedule:
        return kept
    return {**kept, **schedule[STOCK], "fingerprint": fingerprint(table_of(schedule[STOCK]))}


def stock_table(manifest: Manifest, steps: int) -> ScheduleTable:
    """The stock scheduler's table of that many steps, whatever a calibration has made of it."""
    return table_of(stock_json(manifest.raw["schedules"][str(steps)]))


def uncalibrated(manifest: Manifest) -> dict[str, Any]:
    """All of qsched.json that no calibration writes: every file's hash, the base schedules, guidance, provenance.

    The recipe is no part of it: its paths are a machine's. Two bundles that agree in it draw the same pictures with
    the same coefficients.
    """
    raw = {name: value for name, value in manifest.raw.items() if name not in ("calibration", "version", "recipe")}
    return {**raw, "schedules": {n: stock_json(s) for n, s in raw["schedules"].items()}}


def write_schedule(folder: Path, learned: LearnedSchedule, record: Mapping[str, Any]) -> None:
    """Put a learned schedule and its record into a bundle's qsched.json, in one renaming."""
    manifest, steps = manifests.read(folder), len(learned)
    if steps not in manifest.schedules:
        raise ScheduleError(f"{folder} has no schedule for {steps} steps: it has {sorted(manifest.schedules)}")
    raw = manifest.raw
    raw["schedules"][str(steps)] = schedule_json(learned, stock_table(manifest, steps))
    raw["calibration"][str(steps)] = dict(record)
    raw["version"] = version_of(raw)
    write_json(folder / NAME, raw)


def version_of(raw: Mapping[str, Any]) -> int:
    """The format's version: a bias needs a runtime that adds it, a shift and byte-level BPE one that knows them."""
    schedules = raw["schedules"].values()
    if any("shift" in s for s in schedules) or any(t["kind"] == "bpe" for t in raw["tokenizers"].values()):
        return SHIFT_VERSION
    return BIAS_VERSION if any("bias" in s for s in schedules) else VERSION


def tokenizer_json(spec: TokenizerSpec) -> dict[str, Any]:
    """Without the words of a chat template where there are none: runtimes of earlier versions do not know them."""
    return {key: value for key, value in asdict(spec).items() if value != "" or key not in ("prefix", "suffix")}
