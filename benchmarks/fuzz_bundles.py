"""Damaged inputs for each parser of the runtime, as many as fit the time: what is no BundleError is printed.

    python -m benchmarks.fuzz_bundles BUNDLE [SECONDS] [SEED]

docs/security.md has the figures.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from qsched_runtime import BundleError
from qsched_runtime import manifest as manifests
from qsched_runtime.inspection import inspect_graph
from qsched_runtime.tokenize import load_tokenizer

TELLING = b'\x00\x01\xff"{}[],:0199eE-.x\\'  # bytes that mean something to one parser or another


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to four places of it replaced, left out or added to."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(max(1, len(found)))
        new = [rng.choice(TELLING) if rng.random() < 0.7 else rng.randrange(256) for _ in range(rng.randint(0, 8))]
        found[start : start + rng.randint(0, 8)] = bytes(new)
    return bytes(found)


def read_manifest(folder: Path, data: bytes) -> None:
    (folder / manifests.NAME).write_bytes(data)
    manifests.read(folder)


def read_tokenizer(path: Path, spec: manifests.TokenizerSpec, data: bytes) -> None:
    path.write_bytes(data)
    load_tokenizer(path, spec)("a red apple")


def fuzz(name: str, whole: bytes, parse: Callable[[bytes], object], seconds: float, rng: random.Random) -> None:
    inputs, passed, worst, raw = 0, 0, 0.0, Counter[str]()
    end = time.process_time() + seconds
    while time.process_time() < end:
        data, started = damaged(whole, rng), time.process_time()
        inputs += 1
        try:
            parse(data)
            passed += 1
        except BundleError:
            pass
        except Exception as error:
            raw[f"{type(error).__name__}: {error}"[:100]] += 1
        worst = max(worst, time.process_time() - started)
    print(f"{name}: {inputs} inputs, {passed} passed, {sum(raw.values())} raw errors, the slowest {worst:.3f} s")
    for error, count in raw.most_common(20):
        print(f"  {count} x {error}")


def main(bundle: Path, seconds: float = 30.0, seed: int = 0) -> None:
    manifest, rng = manifests.read(bundle), random.Random(seed)
    files = {f.path: f.bytes for f in manifest.files}
    graph = next(iter(manifest.components.values())).file
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fuzz("qsched.json", (bundle / manifests.NAME).read_bytes(), partial(read_manifest, folder), seconds, rng)
        fuzz(graph, (bundle / graph).read_bytes(), lambda d: inspect_graph(d, graph, files), seconds, rng)
        for spec in manifest.tokenizers.values():
            parse = partial(read_tokenizer, folder / "tokenizer.json", spec)
            fuzz(spec.file, (bundle / spec.file).read_bytes(), parse, seconds, rng)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:3]), *map(int, sys.argv[3:4]))  # type: ignore[arg-type]
