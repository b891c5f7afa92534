"""What loading a bundle takes beside an older version of the runtime, the two taking turns.

    python -m benchmarks.load_times BUNDLE --against REVISION [--rounds 7]

Seconds of the processor, which a busy machine does not change. docs/security.md has the figures.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
RUNTIME = "runtimes/python"
CODE = """
import sys, time
sys.path.insert(0, sys.argv[1])
import qsched_runtime.sampler as sampler
started = time.process_time()
sampler.Sampler.from_pretrained(sys.argv[2], memory="low")
print(time.process_time() - started)
"""


def loaded(runtime: Path, bundle: Path) -> float:
    command = [sys.executable, "-c", CODE, str(runtime), str(bundle)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--against", required=True, help="a revision of this repository")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    archive = subprocess.run(["git", "archive", given.against, RUNTIME], cwd=ROOT, capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as name, tarfile.open(fileobj=io.BytesIO(archive.stdout)) as older:
        older.extractall(name, filter="data")
        places = {given.against: Path(name) / RUNTIME, "now": ROOT / RUNTIME}
        times: dict[str, list[float]] = {label: [] for label in places}
        for _ in range(given.rounds):
            for label, place in places.items():
                times[label].append(loaded(place, given.bundle))
    for label, seconds in times.items():
        print(f"{label}: {median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})")


if __name__ == "__main__":
    main()
