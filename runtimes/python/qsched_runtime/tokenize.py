"""CLIP's byte-level BPE tokenizer in the standard library alone, and the choice between the tokenizers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain, count, groupby, takewhile
from pathlib import Path
from typing import Any, Protocol

from qsched_runtime.bpe import (
    ALPHABET,
    WHITE_SPACE,
    Pairs,
    bpe_from_json,
    letter_or_number,
    merged,
    pairs_and_vocabulary,
)
from qsched_runtime.errors import BundleError
from qsched_runtime.files import read_checked, read_limited
from qsched_runtime.manifest import Manifest, TokenizerSpec
from qsched_runtime.packed import Packed
from qsched_runtime.strict import TOKENIZER, parse_json
from qsched_runtime.unigram import added_tokens, pattern_of, unigram_from_json

WORD = re.compile(r"L+|N|\.+")  # over the characters' kinds
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


class Tokenizer(Protocol):
    """`tokenizer(prompt)` gives ids of a fixed length, of which the first `count(prompt)` are no padding;
    `left_out(prompt)` says how many ids did not fit."""

    def __call__(self, prompt: str) -> list[int]: ...

    def count(self, prompt: str) -> int: ...

    def left_out(self, prompt: str) -> int: ...


class ClipTokenizer:
    """`[BOS] + ids[: length - 2] + [EOS]`, padded to `length`, as transformers' CLIPTokenizer gives them.

    `vocabulary` maps tokens to ids; `merges` lists the pairs in the order they are applied; `added` tokens stand for
    themselves in a prompt, as written or, where tokenizer.json calls them `normalized`, in normalised text. A learned
    word of several vectors is several tokens, WORD, WORD_1, WORD_2 ...: WORD alone in a prompt stands for all of them.
    """

    def __init__(
        self, vocabulary: dict[str, int], merges: Pairs, added: list[dict[str, Any]], spec: TokenizerSpec
    ) -> None:
        self.vocabulary, self.spec = vocabulary, spec
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.written = {t["content"]: t["id"] for t in added if not t["normalized"]}
        self.normal = {normalise(t["content"]): t["id"] for t in added if t["normalized"]}
        self.split_written, self.split_normal = pattern_of(self.written).split, pattern_of(self.normal).split
        self.several = several_tokens(self.written | {t["content"]: t["id"] for t in added if t["normalized"]})
        self._bpe = lru_cache(maxsize=65536)(self._word_ids)

    def __call__(self, prompt: str) -> list[int]:
        ids = [self.spec.bos_id, *self._all_ids(prompt)[: self.spec.length - 2], self.spec.eos_id]
        return ids + [self.spec.pad_id] * (self.spec.length - len(ids))

    def count(self, prompt: str) -> int:
        """How many ids are no padding."""
        return min(len(self._all_ids(prompt)) + 2, self.spec.length)

    def left_out(self, prompt: str) -> int:
        """How many of the prompt's ids are beyond `length`."""
        return max(0, len(self._all_ids(prompt)) - (self.spec.length - 2))

    def _all_ids(self, prompt: str) -> list[int]:
        ids = self._plain_ids(prompt)
        found = [(word, all_of_it) for word, (i, all_of_it) in self.several.items() if i in ids]
        for word, all_of_it in found:
            prompt = prompt.replace(word, all_of_it)
        return self._plain_ids(prompt) if found else ids

    def _plain_ids(self, prompt: str) -> list[int]:
        return [i for part in self.split_written(prompt) for i in self._ids(part)]

    def _ids(self, part: str) -> list[int]:
        if part in self.written:
            return [self.written[part]]
        ids: list[int] = []
        for text in self.split_normal(normalise(part)):
            ids += [self.normal[text]] if text in self.normal else chain(*map(self._bpe, split_words(text)))
        return ids

    def _word_ids(self, word: str) -> list[int]:
        parts = [ALPHABET[b] for b in word.encode()]
        parts[-1] += "</w>"
        return [self.vocabulary.get(part, self.spec.eos_id) for part in merged(parts, self.ranks)]


def several_tokens(added: dict[str, int]) -> dict[str, tuple[int, str]]:
    """Each added word that has more tokens, WORD_1, WORD_2 ...: its id and "WORD WORD_1 WORD_2"."""
    found = {}
    for word, i in added.items():
        others = list(takewhile(added.__contains__, (f"{word}_{n}" for n in count(1))))
        if others:
            found[word] = i, " ".join([word, *others])
    return found


def normalise(text: str) -> str:
    """NFC, runs of white space to one space, lower case code point by code point (no final-sigma rule)."""
    runs = groupby(unicodedata.normalize("NFC", text), WHITE_SPACE.__contains__)
    return "".join(" " if blank else "".join(map(str.lower, run)) for blank, run in runs)


def kind_of(character: str) -> str:
    """One of " " (white space), "L" (letter), "N" (number), "." (anything else)."""
    return " " if character in WHITE_SPACE else letter_or_number(character)


def split_words(text: str) -> Iterator[str]:
    """CLIP's pattern: contractions, runs of letters, single numbers, runs of anything else."""
    kinds, i = "".join(map(kind_of, text)), 0
    while i < len(text):
        contraction = next((c for c in CONTRACTIONS if text.startswith(c, i)), "")
        run = WORD.match(kinds, i)
        end = i + len(contraction) if contraction else run.end() if run else i + 1
        if contraction or run:
            yield text[i:end]
        i = end


def clip_from_json(data: dict[str, Any], spec: TokenizerSpec) -> ClipTokenizer:
    """Raises KeyError, TypeError or ValueError for what is no CLIP tokenizer.json."""
    merges, vocabulary = pairs_and_vocabulary(data["model"])
    return ClipTokenizer(vocabulary, merges, added_tokens(data), spec)


KINDS: dict[str, Callable[[dict[str, Any], TokenizerSpec], Tokenizer]] = {
    "bpe": bpe_from_json,
    "clip": clip_from_json,
    "unigram": lambda data, s: unigram_from_json(data, s.length, s.eos_id, s.pad_id),
}


def load_tokenizer(path: Path, spec: TokenizerSpec) -> Tokenizer:
    """Read a tokenizer.json; raises BundleError when it is not the kind that `spec` names."""
    return tokenizer_of(read_limited(path.parent, path.name, TOKENIZER.bytes), spec, str(path))


def tokenizer_of(data: bytes, spec: TokenizerSpec, where: str) -> Tokenizer:
    """The same of a tokenizer.json's bytes; `where` is what an error calls it."""
    if spec.kind not in KINDS:
        raise BundleError(f"tokenizer kind {spec.kind!r} is unknown to this runtime: use a newer one")
    document = parse_json(data, TOKENIZER, where)
    try:
        return KINDS[spec.kind](document, spec)
    except (ValueError, KeyError, TypeError, AttributeError, LookupError) as error:
        raise BundleError(f"{where} is no {spec.kind} tokenizer.json ({error!r}): make the bundle again") from error


def load_tokenizers(place: Path | Packed, manifest: Manifest) -> dict[str, Tokenizer]:
    """All tokenizers of a bundle, from bytes that have the size and SHA-256 of the manifest."""
    listed = {file.path: file for file in manifest.files}
    return {
        name: tokenizer_of(read_checked(place, listed[t.file], TOKENIZER.bytes), t, f"{place}/{t.file}")
        for name, t in manifest.tokenizers.items()
    }
