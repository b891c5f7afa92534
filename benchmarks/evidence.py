"""The evidence for the calibration, on the embedded model: `make evidence`, or `python -m benchmarks.evidence -o DIR`.

`python -m benchmarks.evidence PART... -o DIR --write docs/evidence.md` measures some parts (default: all), keeps their
numbers in DIR/PART.json, puts their texts between that file's markers and their plots beside it. What is finished is
not measured again, and markers of other parts stay as they are.

A part is a file with `measure(folder, model, threads) -> Found` and a line in PARTS.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from qsched_edge.work.staging import write_bytes, write_json, write_text

PARTS = {"schedules": "benchmarks.schedules", "ablation": "benchmarks.ablation"}
MARKER = re.compile(r"(<!-- ([a-z0-9 ]+) -->)\n.*?<!-- end -->", re.DOTALL)


def filled(text: str, found: Mapping[str, str]) -> str:
    """Each text between its markers `<!-- NAME -->` and `<!-- end -->`; raises KeyError for one that is not there."""
    missing = set(found) - {name for _, name in MARKER.findall(text)}
    if missing:
        raise KeyError(f"no marker for {sorted(missing)}")

    def put(match: re.Match[str]) -> str:
        return f"{match[1]}\n{found[match[2]]}\n<!-- end -->" if match[2] in found else match[0]

    return MARKER.sub(put, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--threads", help="onnxruntime's threads")
    parser.add_argument("--write", type=Path, help="Markdown file with markers for the texts")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    threads = ("--threads", given.threads) if given.threads else ()
    for part in given.parts or PARTS:
        found = import_module(PARTS[part]).measure(given.output, given.model, threads)
        write_json(given.output / f"{part}.json", found.numbers)
        print("\n\n".join(f"{name}\n\n{text}" for name, text in found.texts.items()))
        if given.write:
            folder = given.write.with_suffix("")
            folder.mkdir(exist_ok=True)
            write_text(given.write, filled(given.write.read_text("utf-8"), found.texts))
            for name, data in found.pictures.items():
                write_bytes(folder / name, data)


if __name__ == "__main__":
    main()
