"""One model by diffusers and by the runtime: `python -m benchmarks.beside_diffusers FOLDER BUNDLE [--steps 1]`.

Each draws the same prompt from the same noise in a fresh process on one thread of a CPU, in float32 as diffusers does
there. Prints one JSON object: what is on disk (weights, and the packages that were imported), CPU seconds until the
model is ready and for a picture, the peak resident set. CPU seconds are of the process and its threads, so that other
work on the machine changes little.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PROMPT, SEED = "a red apple", 7


def by_diffusers(folder: Path, steps: int) -> tuple[Any, Any]:
    from qsched_edge import torchvision_schema

    torchvision_schema.declare()
    import torch
    from diffusers import DiffusionPipeline

    torch.set_num_threads(1)
    pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(SEED)
    return pipeline, lambda: pipeline(PROMPT, num_inference_steps=steps, guidance_scale=0.0, generator=generator)


def by_the_runtime(folder: Path, steps: int) -> tuple[Any, Any]:
    from qsched_runtime import Sampler

    sampler = Sampler.from_pretrained(folder, threads=1)
    return sampler, lambda: sampler(PROMPT, seed=SEED, num_inference_steps=steps, guidance_scale=0.0)


WAYS = {"diffusers": by_diffusers, "runtime": by_the_runtime}


def measured(way: str, folder: Path, steps: int) -> dict[str, Any]:
    """In this process: CPU seconds, peak bytes, bytes on disk."""
    from resource import RUSAGE_SELF, getrusage

    kept, draw = WAYS[way](folder, steps)
    ready = time.process_time()
    draw()
    drawn = time.process_time()
    return {
        "cpu_seconds_until_ready": round(ready, 1), "cpu_seconds_a_picture": round(drawn - ready, 1),
        "peak_bytes": getrusage(RUSAGE_SELF).ru_maxrss * 1024,
        "weights_bytes": weights_bytes(folder), "packages_bytes": packages_bytes(),
        "drawn_by": type(kept).__name__,
    }  # fmt: skip


def weights_bytes(folder: Path) -> int:
    kinds = (".safetensors", ".onnx", ".onnx_data")
    return sum(file.stat().st_size for file in folder.rglob("*") if file.suffix in kinds)


def packages_bytes() -> int:
    """All files of the installed distributions whose modules this process has imported."""
    from importlib.metadata import distribution, packages_distributions

    owners = packages_distributions()
    names = {name for module in list(sys.modules) for name in owners.get(module.split(".")[0], ())}
    ours = {"qsched-edge"}
    files = [Path(str(file.locate())) for name in names - ours for file in distribution(name).files or ()]
    return sum(file.stat().st_size for file in files if file.is_file())


def benchmark(model: Path, bundle: Path, steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {"steps": steps}
    for way, folder in (("diffusers", model), ("runtime", bundle)):
        command = [sys.executable, "-m", "benchmarks.beside_diffusers", str(folder), str(folder), "--steps", str(steps)]
        done = subprocess.run([*command, "--way", way], cwd=ROOT, check=True, capture_output=True, text=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="diffusers folder")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--way", choices=WAYS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measured(given.way, given.bundle.resolve(), given.steps)))
    else:
        print(json.dumps(benchmark(given.model.resolve(), given.bundle.resolve(), given.steps), indent=1))
