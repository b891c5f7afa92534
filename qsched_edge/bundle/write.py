"""qsched.json: what it says of a model, its files and its coefficients."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Coefficients, ScheduleTable
from qsched_runtime import manifest as manifests
from qsched_runtime.manifest import (
    BIAS_VERSION,
    FORMAT,
    NAME,
    VERSION,
    BundleFile,
    Manifest,
    TokenizerSpec,
    sha256,
)
from qsched_runtime.noise import ALGORITHM

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
    return {
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
        "tokenizers": {name: asdict(t) for name, t in tokenizers.items()},
        "latents": asdict(layout.latents),
        "guidance": asdict(layout.guidance),
        "strength_rounds_up": layout.strength_rounds_up,
        "noise": {"algorithm": ALGORITHM},
        "default_steps": next(iter(schedules)),
        "schedules": {str(n): schedule_json(t, Coefficients.identity(n)) for n, t in schedules.items()},
        "calibration": {},
        "provenance": dict(provenance),
    }  # fmt: skip


def schedule_json(table: ScheduleTable, coefficients: Coefficients) -> dict[str, Any]:
    """The base table, the learned columns and, for runtimes that want no arithmetic, their product."""
    folded = table.folded(coefficients)
    return {
        **table_to_json(table),
        "fingerprint": fingerprint(table),
        **coefficients_json(coefficients),
        "folded": {"a": columns(folded.a), "b": columns(folded.b)},
    }


def coefficients_json(coefficients: Coefficients) -> dict[str, Any]:
    """c_x, c_eps and, unless it is zero, the bias: [steps] or [steps, channels] each."""
    found = {"c_x": coefficients.c_x.tolist(), "c_eps": coefficients.c_eps.tolist()}
    bias = np.asarray(coefficients.bias)
    return {**found, "bias": bias.tolist()} if bias.any() else found


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
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return [file_entry(folder, p) for p in paths if p != folder / NAME and p != folder / STAMP]


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


def uncalibrated(manifest: Manifest) -> dict[str, Any]:
    """All of qsched.json that no calibration writes: every file's hash, the base schedules, guidance, provenance.

    The recipe is no part of it: its paths are a machine's. Two bundles that agree in it draw the same pictures with
    the same coefficients.
    """
    raw = {name: value for name, value in manifest.raw.items() if name not in ("calibration", "version", "recipe")}
    schedules = {n: {k: v for k, v in s.items() if k not in LEARNED} for n, s in raw["schedules"].items()}
    return {**raw, "schedules": schedules}


def write_coefficients(folder: Path, steps: int, coefficients: Coefficients, record: Mapping[str, Any]) -> None:
    """Put learned coefficients, the folded table and their record into a bundle's qsched.json, in one renaming."""
    manifest = manifests.read(folder)
    if steps not in manifest.schedules:
        raise ScheduleError(f"{folder} has no schedule for {steps} steps: it has {sorted(manifest.schedules)}")
    raw = manifest.raw
    raw["schedules"][str(steps)] = schedule_json(manifest.schedules[steps], coefficients)
    raw["calibration"][str(steps)] = dict(record)
    raw["version"] = version_of(raw["schedules"])
    write_json(folder / NAME, raw)


def version_of(schedules: Mapping[str, Any]) -> int:
    """The format's version: a bias needs a runtime that adds it."""
    return BIAS_VERSION if any("bias" in s for s in schedules.values()) else VERSION
