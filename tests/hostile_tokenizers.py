"""The corpus's tokenizers: what stands in the manifest, in CLIP's tokenizer.json, in T5's and in Qwen's."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile import put, read, write
from hostile_case import GRAPH, TOKENIZER, Case, setting
from qsched_runtime.bpe import ALPHABET, PATTERN


def document(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """tokenizer.json, changed and listed again."""

    def mutate(folder: Path) -> None:
        found = json.loads((folder / TOKENIZER).read_text("utf-8"))
        change(found)
        put(folder, TOKENIZER, json.dumps(found).encode())

    return mutate


def unigram(**changes: Any) -> Callable[[Path], None]:
    """A T5 tokenizer in the place of CLIP's, with something wrong in it."""
    charsmap = changes.pop("charsmap", "")
    vocab = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581a", -1.0], ["b", -2.0]]
    model = {"type": "Unigram", "unk_id": 2, "vocab": vocab, **changes}

    def mutate(folder: Path) -> None:
        found = {
            "added_tokens": [{"id": 1, "content": "</s>"}],
            "model": model,
            "pre_tokenizer": {"type": "Metaspace"},
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        }
        put(folder, TOKENIZER, json.dumps(found).encode())
        setting("unigram", "tokenizers", "tokenizer", "kind")(folder)

    return mutate


def qwen() -> dict[str, Any]:
    """A byte-level tokenizer.json of one merge, as sound as can be."""
    pieces = [*ALPHABET.values(), "ab"]
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False}
    return {
        "added_tokens": [{"id": 300, "content": "<|end|>"}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "model": {"type": "BPE", "merges": [["a", "b"]], "vocab": {piece: i for i, piece in enumerate(pieces)}},
    }


def bpe(change: Callable[[Any], object], **spec: Any) -> Callable[[Path], None]:
    """Qwen's kind of tokenizer in the place of CLIP's, with something wrong in it."""

    def mutate(folder: Path) -> None:
        found = qwen()
        change(found)
        put(folder, TOKENIZER, json.dumps(found).encode())
        raw = read(folder)
        raw["version"] = 3
        raw["tokenizers"]["tokenizer"].update({"kind": "bpe", **spec})
        write(folder, raw)

    return mutate


def byte_level() -> Iterator[Case]:
    changes: dict[str, Callable[[Any], object]] = {
        "another split": lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(x+)+$"}),
        "one step": lambda d: d["pre_tokenizer"].update(pretokenizers=[]),
        "no steps": lambda d: d.update(pre_tokenizer=None),
        "no normalizer": lambda d: d.update(normalizer=None),
        "another normalizer": lambda d: d.update(normalizer={"type": "Lowercase"}),
        "a byte less": lambda d: d["model"]["vocab"].pop("a"),
        "a merge of nothing": lambda d: d["model"].update(merges=[["a", "zz"]]),
        "merges of numbers": lambda d: d["model"].update(merges=[[1, 2]]),
        "text ids": lambda d: d["model"]["vocab"].update(a="1"),
        "negative ids": lambda d: d["model"]["vocab"].update(a=-1),
        "normalized words": lambda d: d["added_tokens"][0].update(normalized=True),
        "empty words": lambda d: d["added_tokens"][0].update(content=""),
        "no model": lambda d: d.pop("model"),
    }
    for name, change in changes.items():
        yield Case("tokenizers", f"bpe {name}", bpe(change))
    for key, value in {"prefix": "x" * 10**6, "suffix": 3, "template": "x", "length": 0}.items():
        yield Case("tokenizers", f"bpe {key}", bpe(lambda d: None, **{key: value}))


def charsmap(units: list[int], size: int | None = None, texts: bytes = b"") -> str:
    trie = b"".join(struct.pack("<I", u) for u in units)
    return base64.b64encode(struct.pack("<I", len(trie) if size is None else size) + trie + texts).decode()


FIELDS: dict[str, tuple[Any, ...]] = {
    "kind": ("bpe", "", None, 1),
    "length": (0, 1, -1, 10**9, 2.5, "24", None, True),
    "bos_id": (-1, -2, 2**31, "1", None, 1.5),
    "eos_id": (-1, 2**31, 10**30, "1", None),
    "pad_id": (-1, 2**31, "1", None),
    "file": (None, 3, "missing.json", "qsched.json", GRAPH),
}
MODELS: dict[str, Callable[[Any], object]] = {
    "no model": lambda d: d.pop("model"),
    "no vocabulary": lambda d: d["model"].pop("vocab"),
    "no merges": lambda d: d["model"].pop("merges"),
    "no added": lambda d: d.pop("added_tokens"),
    "model a list": lambda d: d.update(model=[]),
    "vocabulary a list": lambda d: d["model"].update(vocab=["a"]),
    "vocabulary null": lambda d: d["model"].update(vocab=None),
    "text ids": lambda d: d["model"]["vocab"].update(a="1"),
    "negative ids": lambda d: d["model"]["vocab"].update(a=-1),
    "large ids": lambda d: d["model"]["vocab"].update(a=2**40),
    "true ids": lambda d: d["model"]["vocab"].update(a=True),
    "fractions": lambda d: d["model"]["vocab"].update(a=1.5),
    "merges of one": lambda d: d["model"].update(merges=["ab"]),
    "merges of three": lambda d: d["model"].update(merges=[["a", "b", "c"]]),
    "merges of numbers": lambda d: d["model"].update(merges=[[1, 2]]),
    "merges a number": lambda d: d["model"].update(merges=7),
    "merges null": lambda d: d["model"].update(merges=[None]),
    "added a number": lambda d: d.update(added_tokens=7),
    "added null": lambda d: d.update(added_tokens=[None]),
    "added without id": lambda d: d["added_tokens"][0].pop("id"),
    "added without text": lambda d: d["added_tokens"][0].pop("content"),
    "added empty": lambda d: d["added_tokens"][0].update(content=""),
    "added long": lambda d: d["added_tokens"][0].update(content="x" * 10_000),
    "added of numbers": lambda d: d["added_tokens"][0].update(content=5),
    "added ids": lambda d: d["added_tokens"][0].update(id="x"),
    "added large ids": lambda d: d["added_tokens"][0].update(id=2**40),
    "added often": lambda d: d.update(added_tokens=[{"id": 1, "content": f"t{i}"} for i in range(20_000)]),
    "a list": lambda d: d.update(added_tokens={"id": 1}),
}
TRIES: dict[str, str] = {
    "no base64": "%%%",
    "shorter than it says": charsmap([0] * 4, size=4_000),
    "a size beyond": charsmap([], size=2**32 - 1),
    "an odd size": charsmap([0] * 4, size=7),
    "outside": charsmap([0xFFFFFFFF] * 8),
    "a far child": charsmap([1 << 30] * 300),
}
PIECES: dict[str, dict[str, Any]] = {
    "no pieces": {"vocab": []},
    "text scores": {"vocab": [["a", "x"]] * 5},
    "one of three": {"vocab": [["a", 1.0, 2]] * 5},
    "empty pieces": {"vocab": [["", 0.0]] * 5},
    "long pieces": {"vocab": [["x" * 5_000, 0.0]] * 5},
    "numbers for pieces": {"vocab": [[3, 0.0]] * 5},
    "vocabulary null": {"vocab": None},
    "unknown outside": {"unk_id": 99},
    "unknown negative": {"unk_id": -1},
    "unknown null": {"unk_id": None},
    "unknown text": {"unk_id": "2"},
    "another model": {"type": "WordPiece"},
    "no type": {"type": None},
    "null scores": {"vocab": [["a", None]] * 5},
}


def tokenizers() -> Iterator[Case]:
    for key, values in FIELDS.items():
        for value in values:
            yield Case("tokenizers", f"{key} {value!a}", setting(value, "tokenizers", "tokenizer", key))
    for value in (1_000_000, 2_000_000_000):
        yield Case("tokenizers", f"ids of no row {value}", setting(value, "tokenizers", "tokenizer", "eos_id"))
    for name, change in MODELS.items():
        yield Case("tokenizers", name, document(change))
    yield Case("tokenizers", "CLIP's called unigram", setting("unigram", "tokenizers", "tokenizer", "kind"))
    for name, value in TRIES.items():
        yield Case("tokenizers", f"trie {name}", unigram(charsmap=value))
    for name, changes in PIECES.items():
        yield Case("tokenizers", f"unigram {name}", unigram(**changes))
    yield from byte_level()
