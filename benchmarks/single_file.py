"""A single file of true size, exported in bounded memory: `python -m benchmarks.single_file sdxl -o DIR`.

Writes a checkpoint of random float16 numbers in its authors' layout and a folder with the configurations alone, exports
the file through the command line with `--max-ram 2G` and prints one JSON object: seconds and the peak resident set of
the whole process tree.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import original_layout
from benchmarks.full_size import watched
from benchmarks.random_model import MODELS, on_meta, write_tokenizer

CHUNK = 2**24  # values that are drawn at once
KINDS: dict[str, tuple[str, Any, list[bool]]] = {  # model -> configurations of, layout, up blocks with attention
    "sd15": ("lcm-dreamshaper-v7", original_layout.stable_diffusion, [False, True, True, True]),
    "sdxl": ("sdxl-turbo", original_layout.stable_diffusion_xl, [True, True, False]),
}


def write_random(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A safetensors file of normal numbers of deviation 0.02, one chunk in memory at a time."""
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end := end + 2 * prod(shape)]}
    text, generator = json.dumps(header).encode(), np.random.default_rng(0)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            left = prod(shape)
            while left:
                count = min(left, CHUNK)
                out.write((generator.standard_normal(count, np.float32) * 0.02).astype("<f2").tobytes())
                left -= count


def write_base(model: str, folder: Path) -> dict[str, dict[str, Any]]:
    """A diffusers folder that lacks every weight; the components' tensors without values."""
    pipeline, components = MODELS[KINDS[model][0]]
    pipeline = "StableDiffusionPipeline" if model == "sd15" else pipeline
    states, index = {}, {"_class_name": pipeline, "_diffusers_version": "0.39.0"}
    for component, (library, name, config) in components.items():
        (folder / component).mkdir(parents=True, exist_ok=True)
        index[component] = [library, name]
        if name.endswith("Tokenizer"):
            write_tokenizer(folder / component, name)
        elif name.endswith("Scheduler"):
            (folder / component / "scheduler_config.json").write_text(json.dumps({**config, "_class_name": name}))
        else:
            module = on_meta(library, name, {k: v for k, v in config.items() if k != "time_cond_proj_dim"})
            (module.save_config if library == "diffusers" else module.config.save_pretrained)(folder / component)
            states[component] = module.state_dict()
    (folder / "model_index.json").write_text(json.dumps(index))
    return states


def benchmark(model: str, output: Path) -> dict[str, Any]:
    """Both are written once and kept; the bundle is made anew."""
    base, file = output / f"{model}-base", output / f"{model}.safetensors"
    if not file.is_file():
        states, (_, layout, attends) = write_base(model, base), KINDS[model]
        partial = file.with_suffix(".partial")
        write_random(partial, {name: tuple(tensor.shape) for name, tensor in layout(states, 2, attends).items()})
        partial.rename(file)
    command = ["export", "-m", file, "--base", base, "--max-ram", "2G", "-o", output / f"{model}-w4", "--force"]
    done = watched([sys.executable, "-m", "qsched_edge", *map(str, command)])
    return {"model": model, "file_bytes": file.stat().st_size, "export": done}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=KINDS)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    print(json.dumps(benchmark(given.model, given.output), indent=1))
