"""Bundles: write qsched.json, put coefficients in, measure, verify."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Coefficients, Sampler, ScheduleTable
from qsched_runtime import manifest as manifests
from qsched_runtime.manifest import (
    BIAS_VERSION,
    FORMAT,
    NAME,
    VERSION,
    BundleFile,
    LatentSpec,
    Manifest,
    TokenizerSpec,
    sha256,
)
from qsched_runtime.noise import ALGORITHM, TorchNoise
from qsched_runtime.tokenize import load_tokenizer

from qsched_edge.checkpoint.schedule import fingerprint, table_to_json
from qsched_edge.errors import BundleError, ScheduleError
from qsched_edge.pipelines.layout import Layout
from qsched_edge.work.staging import STAMP, write_json

GOLDEN = "selftest/golden.json"
PROMPT, SEED, SMALL = "a red apple 🍎, Naïve style", 42, 128  # of the self-test; its pictures' side in pixels


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

    Two bundles that agree in it draw the same pictures with the same coefficients.
    """
    raw = {name: value for name, value in manifest.raw.items() if name not in ("calibration", "version")}
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


def golden(manifest: Manifest, folder: Path, network: bool) -> dict[str, Any]:
    """Numbers any runtime must reproduce: the noise stream and token ids exactly and, with `network`, one step's
    network output within 1e-3."""
    tokenizers = {name: load_tokenizer(folder / t.file, t) for name, t in manifest.tokenizers.items()}
    numbers = {
        "prompt": PROMPT,
        "seed": SEED,
        "noise_sha256": hashlib.sha256(TorchNoise(SEED).randn((16384,)).astype("<f4").tobytes()).hexdigest(),
        "token_ids": {name: tokenize(PROMPT) for name, tokenize in tokenizers.items()},
    }
    return {**numbers, "network_output": network_output(Sampler.from_pretrained(folder))} if network else numbers


def network_output(sampler: Sampler) -> list[float]:
    """The first values of the first step's network output, for a small picture."""
    side = small_side(sampler.manifest.latents)
    conditioning = sampler.condition([PROMPT], height=side, width=side)
    first = next(sampler.trajectory(conditioning, sampler.schedule(), sampler.streams(SEED, 1)))
    return [float(v) for v in first.e.ravel()[:8]]


def small_side(latents: LatentSpec) -> int:
    """Pixels: a self-test should not cost more for models of large pictures."""
    grid = latents.pixels_per_latent * latents.multiple_of
    return min(latents.height * latents.pixels_per_latent, -(-SMALL // grid) * grid)


def verify(folder: Path) -> Manifest:
    """Check hashes, the folded tables and the self-test; raises BundleError at the first that fails."""
    manifest = manifests.read(folder)
    for file in manifest.files:
        manifests.check_file(folder, file)
    known = {f.path for f in manifest.files} | {NAME}
    strays = sorted({p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - known)
    if strays:
        raise BundleError(f"{strays[0]!r} is in {folder} but not in {NAME}: remove it or make the bundle again")
    if manifest.raw["version"] != version_of(manifest.raw["schedules"]):
        raise BundleError(
            f"{folder} is version {manifest.raw['version']} but its schedules are not: run calibrate again"
        )
    for steps, table in manifest.schedules.items():
        stored = manifest.raw["schedules"][str(steps)]
        expected = schedule_json(table, manifest.coefficients[steps])
        if stored.get("fingerprint") != expected["fingerprint"]:
            raise BundleError(f"the {steps}-step schedule does not match its fingerprint: make the bundle again")
        if stored.get("folded") != expected["folded"]:
            raise BundleError(f"the {steps}-step folded table is not base times coefficients: run calibrate again")
    check_golden(manifest, folder)
    return manifest


def check_golden(manifest: Manifest, folder: Path) -> None:
    expected = json.loads((folder / GOLDEN).read_text("utf-8"))
    found = golden(manifest, folder, "network_output" in expected)
    for key in ("noise_sha256", "token_ids"):
        if found[key] != expected[key]:
            raise BundleError(f"self-test: {key} is {found[key]} instead of {expected[key]} on this machine")
    if "network_output" not in expected:
        return
    error = float(np.abs(np.subtract(found["network_output"], expected["network_output"])).max())
    if not error <= 1e-3:
        raise BundleError(f"self-test: the network's output differs by {error:.1e} from the exporter's on this machine")
