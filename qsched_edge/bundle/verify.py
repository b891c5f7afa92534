"""A bundle's self-test, and the check of everything that it says of itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Sampler
from qsched_runtime import manifest as manifests
from qsched_runtime.files import read_limited
from qsched_runtime.manifest import NAME, LatentSpec, Manifest
from qsched_runtime.noise import TorchNoise
from qsched_runtime.packed import Packed
from qsched_runtime.sessions import as_bundle_error
from qsched_runtime.strict import MANIFEST, parse_json
from qsched_runtime.tokenize import load_tokenizers

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.bundle.write import schedule_json, version_of
from qsched_edge.errors import BundleError

GOLDEN = "selftest/golden.json"
PROMPT, SEED, SMALL = "a red apple 🍎, Naïve style", 42, 128  # of the self-test; its pictures' side in pixels


def golden(manifest: Manifest, place: Path | Packed, network: bool) -> dict[str, Any]:
    """Numbers any runtime must reproduce: the noise stream and token ids exactly and, with `network`, one step's
    network output within 1e-3."""
    tokenizers = load_tokenizers(place, manifest)
    with as_bundle_error("the tokenizers cannot be run"):
        ids = {name: tokenize(PROMPT) for name, tokenize in tokenizers.items()}
    numbers = {
        "prompt": PROMPT,
        "seed": SEED,
        "noise_sha256": hashlib.sha256(TorchNoise(SEED).randn((16384,)).astype("<f4").tobytes()).hexdigest(),
        "token_ids": ids,
    }
    if not network:
        return numbers
    # "low" on every machine: what "auto" chooses depends on its memory, and differs in the last bits
    return {**numbers, "network_output": network_output(Sampler.from_pretrained(str(place), memory="low"))}


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
    """Check hashes, the folded tables and the self-test of a folder or a packed bundle; raises BundleError at the first
    that fails."""
    place = manifests.place_of(folder)
    manifest = manifests.read(place)
    for file in manifest.files:
        manifests.check_file(place, file)
    if isinstance(place, Path):
        check_strays(place, manifest)
    if manifest.raw["version"] != version_of(manifest.raw):
        raise BundleError(
            f"{folder} is version {manifest.raw['version']} but its schedules are not: run calibrate again"
        )
    for steps, table in manifest.schedules.items():
        stored = manifest.raw["schedules"][str(steps)]
        expected = schedule_json(LearnedSchedule(table, manifest.coefficients[steps]), table)
        if stored.get("fingerprint") != expected["fingerprint"]:
            raise BundleError(f"the {steps}-step schedule does not match its fingerprint: make the bundle again")
        if stored.get("folded") != expected["folded"]:
            raise BundleError(f"the {steps}-step folded table is not base times coefficients: run calibrate again")
    check_golden(manifest, place)
    return manifest


def check_strays(folder: Path, manifest: Manifest) -> None:
    known = {f.path for f in manifest.files} | {NAME}
    found = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    strays = sorted({p.relative_to(folder).as_posix() for p in found} - known)
    if strays:
        raise BundleError(f"{strays[0]!r} is in {folder} but not in {NAME}: remove it or make the bundle again")


def golden_of(data: bytes) -> dict[str, Any]:
    """What a self-test's bytes say; BundleError for what is none."""
    found = parse_json(data, MANIFEST, GOLDEN)
    numbers = found.get("network_output", []) if isinstance(found, dict) else None
    if not isinstance(numbers, list) or not all(type(v) in (int, float) for v in numbers):
        raise BundleError(f"{GOLDEN} is malformed: make the bundle again")
    return dict(found)


def check_golden(manifest: Manifest, place: Path | Packed) -> None:
    expected = golden_of(read_limited(place, GOLDEN, MANIFEST.bytes))
    numbers = expected.get("network_output", [])
    found = golden(manifest, place, "network_output" in expected)
    for key in ("noise_sha256", "token_ids"):
        if found[key] != expected.get(key):
            raise BundleError(f"self-test: {key} is {found[key]} instead of {expected.get(key)} on this machine")
    if "network_output" not in expected:
        return
    if len(numbers) != len(found["network_output"]):
        raise BundleError(f"{GOLDEN} is malformed: {len(numbers)} values of the network's output")
    error = float(np.abs(np.subtract(found["network_output"], numbers)).max())
    if not error <= 1e-3:
        raise BundleError(f"self-test: the network's output differs by {error:.1e} from the exporter's on this machine")
