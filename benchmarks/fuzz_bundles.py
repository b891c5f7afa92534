"""Damaged inputs for each parser of a stranger's files and each argument of a caller: other errors than this project's
are printed.

    python -m benchmarks.fuzz_bundles BUNDLE [--inputs 20000] [--seed 0] [--only graph]

The inputs are shared out by what each parser takes. docs/security.md has the figures.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import BundleError, QSchedError, RequestError, Sampler
from qsched_runtime import manifest as manifests
from qsched_runtime.bpe import ALPHABET, PATTERN
from qsched_runtime.inspection import inspect_graph
from qsched_runtime.packed import Packed, with_weights_in
from qsched_runtime.request import first_step, pictures, seeds_of, texts
from qsched_runtime.tokenize import tokenizer_of
from qsched_runtime.unpacking import unpacked_fast
from qsched_runtime.wire import WireError

from qsched_edge.bundle.packing import pack
from qsched_edge.bundle.verify import golden_of
from qsched_edge.checkpoint.weights import Weights

ROOT = Path(__file__).parent.parent
TELLING = b'\x00\x01\xff"{}[],:0199eE-.x\\PK'  # bytes that mean something to one parser or another
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    1.5,
    2**31,
    2**63,
    10**40,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    b"x",
    [],
    [[]],
    {},
    {"a": 1},
    "x" * 20_000,
    [0] * 300,
    object(),
    np.float64("nan"),
    np.zeros((2, 2)),
    np.int8(3),
    4,
    0.5,
    "a red apple",
    8,
    16,
]


@dataclass(frozen=True)
class Target:
    """`parse(whole)` is harmless; `share` of all inputs are thrown at it, each an `input(rng)`."""

    name: str
    share: float
    make: Callable[[random.Random], Any]
    parse: Callable[[Any], object]
    expected: tuple[type[Exception], ...] = (BundleError,)


def damaged(data: bytes, rng: random.Random, start: int = 0) -> bytes:
    """One to four places behind `start` replaced, left out or added to."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(start, len(found) - 1), len(found)) if len(found) > 1 else 0
        new = [rng.choice(TELLING) if rng.random() < 0.7 else rng.randrange(256) for _ in range(rng.randint(0, 8))]
        found[at : at + rng.randint(0, 8)] = bytes(new)
    return bytes(found)


def another(document: Any, rng: random.Random) -> bytes:
    """A JSON document with other values in one to three places."""
    changed = json.loads(json.dumps(document))
    for _ in range(rng.randint(1, 3)):
        here: Any = changed
        while isinstance(here, (dict, list)) and here:
            key = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
            if rng.random() < 0.3 or not isinstance(here[key], (dict, list)):
                here[key] = deepcopy(rng.choice([v for v in VALUES[:20] if not isinstance(v, bytes)]))
                break
            here = here[key]
    return json.dumps(changed).encode()


def from_json(data: bytes) -> Callable[[random.Random], bytes]:
    """Bytes damaged, or values changed, half of the time each."""
    document = json.loads(data)
    return lambda rng: damaged(data, rng) if rng.random() < 0.5 else another(document, rng)


def targets(bundle: Path, folder: Path) -> Iterator[Target]:
    manifest = manifests.read(bundle)
    files = {f.path: f.bytes for f in manifest.files}
    sizes = {c.file: files[c.file] for c in manifest.components.values()}
    graph = min(sizes, key=lambda name: sizes[name])

    outer = (bundle / graph).read_bytes()

    def read_manifest(data: bytes) -> None:
        (folder / manifests.NAME).write_bytes(data)
        manifests.read(folder)

    yield Target("qsched.json", 0.1, from_json(short(manifest.raw)), read_manifest)
    yield Target(
        "graph",
        0.02,
        lambda rng: damaged(outer, rng),
        lambda d: inspect_graph(d, graph, files),
    )
    yield from tokenizer_targets(bundle, manifest)
    yield from packed_targets(bundle, folder, graph)
    golden = (bundle / "selftest/golden.json").read_bytes()
    yield Target("golden.json", 0.3, from_json(golden), golden_of)
    yield request_target(bundle)
    yield from weight_targets(folder)


def short(raw: dict[str, Any]) -> bytes:
    """qsched.json with one schedule and no records: the same checks in a tenth of the time."""
    steps = str(raw["default_steps"])
    kept = {key: value for key, value in raw.items() if key not in ("recipe", "provenance")}
    return json.dumps({**kept, "schedules": {steps: raw["schedules"][steps]}}).encode()


def tokenizer_targets(bundle: Path, manifest: manifests.Manifest) -> Iterator[Target]:
    (spec, *_) = manifest.tokenizers.values()
    clip = small(json.loads((bundle / spec.file).read_bytes()))
    yield Target("BPE tokenizer", 0.03, from_json(clip), lambda d: tokenizer_of(d, spec, "x")("a red apple, caf\u00e9"))
    qwen = replace(spec, kind="bpe")
    whole = byte_level()
    yield Target(
        "byte-level BPE tokenizer", 0.02, from_json(whole), lambda d: tokenizer_of(d, qwen, "x")("a red apple")
    )
    (vector,) = (v for v in json.loads((ROOT / "tests/vectors/tokenizers.json").read_text()) if v["name"] == "t5")
    t5 = manifests.TokenizerSpec(**vector["spec"])
    unigram = json.loads(gzip.decompress((ROOT / vector["tokenizer"]).read_bytes()))
    unigram["model"]["vocab"] = unigram["model"]["vocab"][:200]
    data = json.dumps(unigram).encode()
    yield Target("unigram tokenizer", 0.004, from_json(data), lambda d: tried(tokenizer_of(d, t5, "x")))


def byte_level() -> bytes:
    """A tokenizer.json of Qwen's kind with one merge."""
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False}
    document = {
        "added_tokens": [{"id": 300, "content": "<|end|>"}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "model": {
            "type": "BPE",
            "merges": [["a", "p"]],
            "vocab": {p: i for i, p in enumerate([*ALPHABET.values(), "ap"])},
        },
    }
    return json.dumps(document).encode()


def small(document: Any) -> bytes:
    model = document["model"]
    model["merges"], model["vocab"] = model["merges"][:20], dict(list(model["vocab"].items())[:60])
    return json.dumps(document).encode()


def tried(tokenizer: Callable[[str], Any]) -> None:
    """A damaged trie shows when it is asked: the sampler's wrapper makes one error of what is raised then."""
    try:
        tokenizer("a red apple, caf\u00e9 \ufb01")
    except (LookupError, ValueError) as error:
        raise BundleError(f"the tokenizers cannot be run ({error!r})") from error


def packed_targets(bundle: Path, folder: Path, graph: str) -> Iterator[Target]:
    whole = pack(bundle, folder / "whole.qsched", force=True).read_bytes()
    packed, directory = Packed(folder / "whole.qsched"), int.from_bytes(whole[-6:-2], "little")
    # small files, so that an input is soon written: headers and list as they are, no contents
    bare, place = hollow(packed), folder / "x.qsched"

    def read_packed(data: bytes) -> None:
        place.write_bytes(data)
        for name, entry in Packed(place).entries.items():
            assert entry.start + entry.size <= len(data), name

    del whole, directory
    yield Target("packed file", 0.2, lambda rng: damaged(bare, rng), read_packed)
    data = (bundle / graph).read_bytes()
    move = lambda d: (unpacked_fast(d), with_weights_in(d, packed, f"{Path(graph).parent}/"))  # noqa: E731
    # both come behind inspect_graph, and the sampler makes one error of what they raise
    yield Target("graph, rewritten", 0.005, lambda rng: damaged(data, rng), move, (WireError, LookupError, ValueError))


def hollow(packed: Packed) -> bytes:
    """A packed file of the same names, with next to nothing in it."""
    import io
    import zipfile

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in packed.entries:
            archive.writestr(zipfile.ZipInfo(name), name[:9])
    return target.getvalue()


def request_target(bundle: Path) -> Target:
    """Arguments of a caller, up to where the networks would run."""
    sampler = Sampler(manifests.read(bundle), {}, {})

    def make(rng: random.Random) -> tuple[Any, ...]:
        return tuple(rng.choice(VALUES) for _ in range(9))

    def ask(given: tuple[Any, ...]) -> None:
        prompt, seed, steps, scale, negative, height, width, image, strength = given
        for check in (
            lambda: texts("prompt", prompt),
            lambda: seeds_of(seed, 2),
            lambda: sampler.schedule(steps),
            lambda: sampler.schedule(None, image),
            lambda: pictures(image, 2, 1),
            lambda: first_step(4, strength, True),
            lambda: sampler.manifest.latents.shape(height, width),
            lambda: sampler.left_out(prompt),
            lambda: sampler(
                prompt,
                seed=seed,
                num_inference_steps=steps,
                guidance_scale=scale,
                negative_prompt=negative,
                height=height,
                width=width,
                image=image,
                strength=strength,
            ),
        ):
            try:
                check()
            except RequestError:
                continue
            except BundleError:
                continue  # the networks are not there

    return Target("request", 0.306, make, ask, (QSchedError,))


def weight_targets(folder: Path) -> Iterator[Target]:
    from safetensors.numpy import save

    path = folder / "x.safetensors"
    whole = save({"a.weight": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)})

    def read_weights(data: bytes) -> None:
        path.write_bytes(data)
        found = Weights([path])
        for name in found:
            found.rows(name, 0, 1) if found.shape(name) else found[name]

    yield Target("safetensors", 0.015, lambda rng: damaged(whole, rng), read_weights, (QSchedError,))


def fuzz(target: Target, inputs: int, rng: random.Random) -> int:
    """Throw them; one line of figures, and one for each kind of other error. Gives back how many others there were."""
    passed, worst, raw, spent = 0, 0.0, Counter[str](), 0.0
    for _ in range(inputs):
        given = target.make(rng)
        started = time.process_time()
        try:
            target.parse(given)
            passed += 1
        except target.expected as error:
            if isinstance(error, QSchedError) and not (len(str(error)) <= 600 and str(error).isprintable()):
                raw[f"message: {str(error)[:80]!r}"] += 1
        except Exception as error:
            raw[f"{type(error).__name__}: {error}"[:100]] += 1
        spent += time.process_time() - started
        worst = max(worst, time.process_time() - started)
    others = sum(raw.values())
    print(f"| {target.name} | {inputs:,} | {passed:,} | {others} | {spent:.0f} s | {worst:.3f} s |", flush=True)
    for error, count in raw.most_common(20):
        print(f"  {count} x {error}", flush=True)
    return others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    print("| parser | inputs | passed | other errors | seconds | the slowest |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        found = [
            fuzz(target, max(1, round(given.inputs * target.share)), random.Random(f"{target.name} {given.seed}"))
            for target in targets(given.bundle, Path(name))
            if given.only in target.name
        ]
    raise SystemExit(1 if any(found) else 0)


if __name__ == "__main__":
    main()
