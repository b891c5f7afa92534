"""A full-size model judged and calibrated on a CPU: `python -m benchmarks.full_size_judged sd-turbo -o DIR`.

Writes the random-weight model of random_model.py, exports it at 4 bits, then runs `evaluate` with the judge `paired`
(which exports the 32-bit bundle that it compares with) and `calibrate` with the loss and the gate that need no model
but that bundle, each with the fewest pictures. Prints one JSON object: seconds and the peak resident set of the whole
process tree for each command, and what the report says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.full_size import ROOT, recipe_for, watched


def commands_of(model: str, output: Path) -> dict[str, list[str]]:
    """The three commands by name; the recipe names the random model's folder."""
    bundle, report = output / f"{model}-w4", output / f"{model}-report"
    recipe = recipe_for(model, output / model)
    asked = {
        "export": ["export", "-m", recipe, "--max-ram", "2G", "-o", bundle, "--force"],
        "evaluate": ["evaluate", bundle, "-o", report, "--force", "--judge", "paired", "--offline",
                     "--count", 1, "--seeds", 1, "--steps", 1],
        "calibrate": ["calibrate", bundle, "--loss", "reference", "--offline",
                      "--fit-prompts", 2, "--heldout-prompts", 2, "--steps", 1],
    }  # fmt: skip
    return {name: [sys.executable, "-m", "qsched_edge", *map(str, words)] for name, words in asked.items()}


def benchmark(model: str, output: Path) -> dict[str, Any]:
    """The model is written once and kept; a command that fails ends the benchmark."""
    if not (output / model / "model_index.json").is_file():
        write = [sys.executable, "-m", "benchmarks.random_model", model, "-o", str(output / model)]
        subprocess.run(write, cwd=ROOT, check=True, stdout=sys.stderr)
    found: dict[str, Any] = {"model": model}
    for name, command in commands_of(model, output).items():
        found[name] = watched(command)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
        if found[name]["exit"]:
            raise SystemExit(f"{name} failed: {' '.join(command)}")
    report = json.loads((output / f"{model}-report/report.json").read_text("utf-8"))
    return {**found, "cells": report["cells"], "seconds_per_image": report["seconds_per_image"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("sd-turbo", "sdxl-turbo", "lcm-dreamshaper-v7"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    print(json.dumps(benchmark(given.model, given.output), indent=1))
