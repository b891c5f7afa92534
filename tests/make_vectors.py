"""Writes tests/vectors: what every runtime reproduces, whatever its language.

Token ids are those of transformers, noise and steps those of numpy.
Run as `PYTHONPATH=runtimes/python:tests:. python tests/make_vectors.py`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import test_bpe
import test_tokenize
import test_unigram
from conftest import ROOT, TOKENIZER
from qsched_runtime.noise import TorchNoise
from qsched_runtime.schedule import COLUMNS, Coefficients, ScheduleTable, Shift, ShiftLine
from qsched_runtime.sources import guidance_embedding
from transformers import CLIPTokenizer, T5Tokenizer

from benchmarks import tokenizers_offline
from qsched_edge.checkpoint.schedule import Sampling, probe, table_to_json

VECTORS = Path(__file__).parent / "vectors"
SEEDS = [(0, [16384]), (42, [16384]), (7, [16, 17, 105, 4096]), (2**32 - 1, [31]), (-1, [31]), (2**40 + 5, [64, 1000])]
SHAPE = (2, 4, 4, 6)  # of the steps' latents
SPEC_KEYS = ("length", "bos_id", "eos_id", "pad_id")


def write(name: str, data: Any) -> None:
    (VECTORS / name).write_text(json.dumps(data, ensure_ascii=True, indent=0) + "\n", "utf-8")


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()


def noise() -> list[dict[str, Any]]:
    """One stream each: the hash of all that is drawn from it, and its first four values."""
    found = []
    for seed, counts in SEEDS:
        stream = TorchNoise(seed)
        values = np.concatenate([stream.randn((n,)) for n in counts])
        found.append({"seed": str(seed), "counts": counts, "sha256": sha256(values), "first": values[:4].tolist()})
    return found


def clip(name: str, folder: Path) -> dict[str, Any]:
    """Texts and ids of one variant of the embedded model's tokenizer; its tokenizer.json but for the vocabulary."""
    shutil.copytree(TOKENIZER, folder, dirs_exist_ok=True)
    test_tokenize.KINDS[name](folder)
    theirs = CLIPTokenizer.from_pretrained(folder)
    theirs.save_pretrained(folder)
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    same = json.loads((TOKENIZER / "tokenizer.json").read_text("utf-8"))
    assert data["model"]["merges"] == same["model"]["merges"]
    numbers = (theirs.model_max_length, theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    return {
        "name": name,
        "tokenizer": (TOKENIZER / "tokenizer.json").relative_to(ROOT).as_posix(),
        "added_tokens": data["added_tokens"],
        "spec": {"kind": "clip", "file": "tokenizer.json", **dict(zip(SPEC_KEYS, numbers, strict=True))},
        "ids": [[text, test_tokenize.ids_of(theirs, text)] for text in test_tokenize.HARD],
    }


def unigram(folder: Path) -> dict[str, Any]:
    """T5's layout with the charsmap of the real T5 and a small vocabulary, which lies beside this file, packed."""
    theirs = T5Tokenizer(
        vocab=test_unigram.vocabulary(),
        _spm_precompiled_charsmap=test_unigram.CHARSMAP,
        extra_ids=len(test_unigram.SENTINELS),
    )
    theirs.save_pretrained(folder)
    text = json.dumps(json.loads((folder / "tokenizer.json").read_text("utf-8")), separators=(",", ":"))
    (VECTORS / "unigram-tokenizer.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    pair = test_unigram.Pair(folder)
    numbers = (pair.length, -1, pair.theirs.eos_token_id, pair.theirs.pad_token_id)
    return {
        "name": "t5",
        "tokenizer": "tests/vectors/unigram-tokenizer.json.gz",
        "spec": {"kind": "unigram", "file": "tokenizer.json", **dict(zip(SPEC_KEYS, numbers, strict=True))},
        "ids": [[text, pair.expected(text)] for text in test_unigram.HARD],
    }


def bpe(folder: Path) -> dict[str, Any]:
    """Qwen's class with a small vocabulary, which lies beside this file, packed."""
    theirs = tokenizers_offline.qwen2()
    path, spec = test_bpe.saved(theirs, folder)
    text = json.dumps(json.loads(path.read_text("utf-8")), separators=(",", ":"))
    (VECTORS / "bpe-tokenizer.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    return {
        "name": "qwen2",
        "tokenizer": "tests/vectors/bpe-tokenizer.json.gz",
        "spec": asdict(spec),
        "ids": [[text, test_bpe.expected(theirs, text)] for text in test_bpe.HARD],
    }


def shifts() -> dict[str, Any]:
    """A flow's schedule of four steps that shifts with the size, and its table at three sizes, within 1e-9."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    lines = (ShiftLine(4300, 1.7e-4, 0.45), ShiftLine(2**20, 1e-4, 0.7))
    shift = Shift(lines[0].slope * 4096 + lines[0].intercept, lines)
    table = probe(config, 4, Sampling(sigmas=lambda n: np.linspace(1.0, 1 / n, n), shift=lambda n: shift))
    at = {str(n): table_to_json(table.at(n)) for n in (256, 4096, 10_000)}
    return {"schedule": {**table_to_json(table), "c_x": [1] * 4, "c_eps": [1] * 4}, "at": at}


def steps() -> dict[str, Any]:
    """A schedule of four steps with noise, values for each channel and a bias; x, e, z are noise of seeds 1, 2, 3."""
    random = np.random.RandomState(5)
    columns = {name: random.uniform(0.2, 1.2, 4) for name in COLUMNS}
    columns["c"][3] = columns["a"][2] = 0.0
    table = ScheduleTable(**columns, init_noise_sigma=14.614640235900879)
    coefficients = Coefficients(
        random.uniform(0.8, 1.2, (4, 4)), random.uniform(0.8, 1.2, 4), random.normal(size=(4, 4))
    )
    folded = table.folded(coefficients)
    x, e, z = (TorchNoise(seed).randn(SHAPE) for seed in (1, 2, 3))
    found = []
    for i in range(4):
        drawn = z if folded.draws_noise(i) else None
        after = folded.step(x, e, drawn, i)
        found.append({
            "model_input": sha256(folded.scale_model_input(x, i)), "noised": sha256(folded.noised(x, z, i)),
            "step": sha256(after), "estimate": sha256(folded.estimate(x, drawn, after, i)),
        })  # fmt: skip
    lists = {name: getattr(coefficients, name).tolist() for name in ("c_x", "c_eps", "bias")}
    columns_json = {name: column.tolist() for name, column in columns.items()}
    start = x * np.float32(table.init_noise_sigma)
    schedule = {**columns_json, "init_noise_sigma": table.init_noise_sigma, **lists}
    return {"schedule": schedule, "shape": SHAPE, "steps": found, "start": sha256(start)}


def embeddings() -> list[dict[str, Any]]:
    """The guidance embedding, within 1e-3: exp, sin and cos are a math library's."""
    asked = [(1.0, 8), (8.0, 256), (3.0, 64)]
    return [{"guidance_scale": s, "width": w, "values": guidance_embedding(s, w)[0].tolist()} for s, w in asked]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clips = [clip(name, Path(folder) / name) for name in test_tokenize.KINDS]
        write("tokenizers.json", [*clips, unigram(Path(folder) / "t5"), bpe(Path(folder) / "q")])
    write("noise.json", noise())
    write("schedule.json", steps())
    write("shift.json", shifts())
    write("guidance_embedding.json", embeddings())


if __name__ == "__main__":
    main()
