"""Full-size export in bounded memory, then one denoising step: `python -m benchmarks.full_size sdxl-turbo -o DIR`.

Writes a random-weight model in the true configuration (see random_model.py), exports it through the command line with
`--max-ram`, optionally kills the export at random moments and resumes it, runs one step of the backbone in a fresh
process and prints one JSON object: seconds, bytes and the peak resident set of the whole process tree.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
POLL = 0.25  # seconds between looks at the process tree: a look reads the whole process table


def recipe_for(model: str, folder: Path) -> Path:
    """The checkpoint's own recipe, with the random model's folder as its source."""
    text = (ROOT / f"export/{model}.toml").read_text("utf-8")
    path = folder.with_name(f"{model}.toml")
    path.write_text(re.sub(r'(?m)^source = ".*"$', f'source = "{folder.resolve()}"', text), "utf-8")
    return path


def resident(process: psutil.Process) -> int:
    """Bytes resident now in the process and all its children."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def watched(command: list[str], kill_after: float | None = None) -> dict[str, Any]:
    """Run `command`, killed after so many seconds if asked: exit code, seconds, peak bytes of its process tree."""
    start, peak = time.perf_counter(), 0
    child = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)
    tree = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            peak = max(peak, resident(tree))
        except psutil.NoSuchProcess:
            break
        if kill_after is not None and time.perf_counter() - start > kill_after:
            child.kill()
        time.sleep(POLL)
    return {"exit": child.wait(), "seconds": round(time.perf_counter() - start, 1), "peak_bytes": peak}


def export_command(recipe: Path, bundle: Path, bits: int, max_ram: str) -> list[str]:
    arguments = ["export", "--model", recipe, "--bits", bits, "--max-ram", max_ram, "-o", bundle, "--force"]
    return [sys.executable, "-m", "qsched_edge", *map(str, arguments)]


def sizes(bundle: Path) -> dict[str, Any]:
    """Stored bytes of each component beside its weights in FP16."""
    from qsched_edge.bundle.opened import open_bundle
    from qsched_edge.bundle.write import bundle_bytes, component_bytes
    from qsched_edge.evaluate.sizes import fp16_bytes

    opened = open_bundle(bundle)
    manifest = opened.manifest
    half = fp16_bytes(opened.model(), opened.provenance.choices)
    stored = {name: component_bytes(manifest, name) for name in manifest.components}
    table = {n: {"bytes": b, "fp16_bytes": half[n], "ratio": round(half[n] / b, 3)} for n, b in stored.items()}
    whole, all_half = bundle_bytes(manifest), sum(half.values())
    return {**table, "bundle": {"bytes": whole, "fp16_bytes": all_half, "ratio": round(all_half / whole, 3)}}


def step(bundle: Path, side: int) -> dict[str, Any]:
    """One step of the backbone alone on random text states, twice: seconds, and bytes of this process at most, when the
    session is loaded and in the end (less what the interpreter and its libraries took before)."""
    import numpy as np
    from qsched_runtime import Sampler
    from qsched_runtime import manifest as manifests
    from qsched_runtime.sessions import Graph

    from qsched_edge.work.memory import current_bytes, peak_bytes

    manifest, rng = manifests.read(bundle), np.random.default_rng(0)
    backbone = manifest.components[manifest.backbone]
    before = current_bytes()
    graph = Graph(bundle / backbone.file, ("CPUExecutionProvider",))
    loaded = current_bytes() - before
    shape = (1, *manifest.latents.shape(side, side))
    sampler = Sampler(manifest, {backbone.name: graph}, {})
    fixed = random_conditioning(sampler, graph, shape, rng)
    x = rng.standard_normal(shape).astype(np.float32)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        e = sampler.network_output(x, manifest.schedules[manifest.default_steps].timesteps[0], fixed)
        seconds.append(round(time.perf_counter() - start, 1))
    peak = peak_bytes()
    file_bytes = sum(f.bytes for f in manifest.files if f.path.startswith(f"{backbone.name}/"))
    return {
        "side": side, "finite": bool(np.isfinite(e).all()), "seconds": seconds, "file_bytes": file_bytes,
        "loaded_bytes": loaded, "resident_bytes": current_bytes() - before, "peak_bytes": peak,
    }  # fmt: skip


def random_conditioning(sampler: Any, graph: Any, shape: tuple[int, ...], rng: Any) -> Any:
    """Text states that no text encoder made; everything else as the manifest's sources say."""
    import numpy as np
    from qsched_runtime.sampler import Conditioning
    from qsched_runtime.sources import MOVING, Known

    known, fixed = Known([""], 1.0, shape[2:], sampler.manifest.latents, {}), {}
    declared = {i.name: i.shape for i in graph.session.get_inputs()}
    for name, source in sampler.backbone.inputs.items():
        if isinstance(source, dict) and "outputs" in source:
            sizes = [d if isinstance(d, int) else (1 if i == 0 else 77) for i, d in enumerate(declared[name])]
            fixed[name] = rng.standard_normal(sizes).astype(np.float32)
        elif isinstance(source, dict) and "attention_mask" in source:
            fixed[name] = np.ones([d if isinstance(d, int) else 1 for d in declared[name]], np.int64)
        elif source not in MOVING:
            fixed[name] = known.value(source)
    return Conditioning(fixed, 1.0, shape)


def benchmark(model: str, output: Path, bits: int, max_ram: str, kills: int, side: int) -> dict[str, Any]:
    """Everything for one model; what is there already is not made again."""
    folder, bundle = output / model, output / f"{model}-w{bits}"
    if not (folder / "model_index.json").is_file():
        subprocess.run(
            [sys.executable, "-m", "benchmarks.random_model", model, "-o", folder],
            cwd=ROOT,
            check=True,
            stdout=sys.stderr,
        )
    command = export_command(recipe_for(model, folder), bundle, bits, max_ram)
    report: dict[str, Any] = {"model": model, "bits": bits, "max_ram": max_ram, "export": watched(command)}
    report["sizes"] = sizes(bundle)
    if kills:
        report["killed"] = killed_and_resumed(command, bundle, kills, report["export"]["seconds"])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.full_size", model, "-o", str(output), "--bits", str(bits),
         "--side", str(side), "--step-only"], cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {**report, "step": json.loads(done.stdout)}


def killed_and_resumed(command: list[str], bundle: Path, kills: int, seconds: float) -> dict[str, Any]:
    """SIGKILL at random moments, then a run to the end: are all files as the uninterrupted run's?"""
    whole, moments = (bundle / "qsched.json").read_bytes(), []
    for _ in range(kills):
        moments.append(round(random.uniform(0.1, 0.9) * seconds, 1))
        watched(command, kill_after=moments[-1])
    last = watched(command)
    return {"after_seconds": moments, "last": last, "identical": (bundle / "qsched.json").read_bytes() == whole}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--max-ram", default="2G")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--side", type=int, default=512, help="pixels of the denoising step's picture")
    parser.add_argument("--step-only", action="store_true")
    given = parser.parse_args()
    if given.step_only:
        print(json.dumps(step(given.output / f"{given.model}-w{given.bits}", given.side)))
    else:
        result = benchmark(given.model, given.output, given.bits, given.max_ram, given.kills, given.side)
        print(json.dumps(result, indent=1))
