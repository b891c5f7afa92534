"""Byte-level BPE, read from tokenizer.json, in the standard library alone: what CLIP's and Qwen's tokenizers share, and
Qwen's."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

from qsched_runtime.manifest import TokenizerSpec
from qsched_runtime.unigram import added_tokens, pattern_of, valid_id

# Unicode White_Space: str.isspace() counts the separators U+001C..U+001F as well, a regex's \s does not.
WHITE_SPACE = {*"\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000", *map(chr, range(0x2000, 0x200B))}
PATTERN = (  # of Qwen's tokenizers, in the syntax of tokenizer.json
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTRACTION = re.compile("'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)
WORD = re.compile(  # the rest of that pattern over the characters' kinds: b is " ", n a line's end, s other white space
    r"[bs.]?L+|N|b?\.+n*|[bsn]*n+|[bsn]+(?![^bsn])|[bsn]+"
)
Pairs = list[tuple[str, str]]


def byte_alphabet() -> dict[int, str]:
    """GPT-2's map of the 256 bytes to printable characters."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


ALPHABET = byte_alphabet()


def merged(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Merge the best-ranked neighbouring pair until none is left."""
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined, i = [], 0
        while i < len(parts):
            joins = i + 1 < len(parts) and (parts[i], parts[i + 1]) == best
            joined.append(parts[i] + parts[i + 1] if joins else parts[i])
            i += 2 if joins else 1
        parts = joined
    return parts


def letter_or_number(character: str) -> str:
    """One of "L" (letter), "N" (number), "." (anything else)."""
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "."


class BpeTokenizer:
    """`ids[:length]` of `prefix + prompt + suffix`, padded to `length`, as transformers' Qwen2Tokenizer gives them.

    The prefix and the suffix are what a chat template writes around one message of the user. `added` tokens stand for
    themselves in a prompt.
    """

    def __init__(
        self, vocabulary: dict[str, int], merges: Pairs, added: list[dict[str, Any]], spec: TokenizerSpec
    ) -> None:
        self.vocabulary, self.spec = vocabulary, spec
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.added = {token["content"]: token["id"] for token in added}
        self.split_added = pattern_of(self.added).split
        self._bpe = lru_cache(maxsize=65536)(self._word_ids)

    def __call__(self, prompt: str) -> list[int]:
        ids = self._all_ids(self.spec.prefix + prompt + self.spec.suffix)[: self.spec.length]
        return ids + [self.spec.pad_id] * (self.spec.length - len(ids))

    def count(self, prompt: str) -> int:
        """How many ids are no padding."""
        return min(len(self._all_ids(self.spec.prefix + prompt + self.spec.suffix)), self.spec.length)

    def left_out(self, prompt: str) -> int:
        """How many of the prompt's ids are beyond `length`."""
        return max(0, len(self._all_ids(self.spec.prefix + prompt)) - self.spec.length)

    def _all_ids(self, text: str) -> list[int]:
        return [i for part in self.split_added(text) for i in self._ids(part)]

    def _ids(self, part: str) -> list[int]:
        if part in self.added:
            return [self.added[part]]
        return list(chain(*map(self._bpe, split_words(unicodedata.normalize("NFC", part)))))

    def _word_ids(self, word: str) -> list[int]:
        return [self.vocabulary[part] for part in merged([ALPHABET[b] for b in word.encode()], self.ranks)]


def kind_of(character: str) -> str:
    if character in "\r\n":
        return "n"
    if character in WHITE_SPACE:
        return "b" if character == " " else "s"
    return letter_or_number(character)


def split_words(text: str) -> Iterator[str]:
    """The parts of `text` that PATTERN matches, which are all of it."""
    kinds, i = "".join(map(kind_of, text)), 0
    while i < len(text):
        end = (CONTRACTION.match(text, i) or WORD.match(kinds, i)).end()  # type: ignore[union-attr]
        yield text[i:end]
        i = end


def pairs_and_vocabulary(model: dict[str, Any]) -> tuple[Pairs, dict[str, int]]:
    """Merges and vocabulary of a BPE model; raises KeyError, TypeError or ValueError for what is none."""
    pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
    merges = [(left, right) for left, right in pairs]
    if not all(isinstance(part, str) for pair in merges for part in pair):
        raise ValueError("a merge is no pair of texts")
    return merges, {piece: valid_id(i) for piece, i in model["vocab"].items()}


def bpe_from_json(data: dict[str, Any], spec: TokenizerSpec) -> BpeTokenizer:
    """Raises KeyError, TypeError or ValueError for what is no Qwen tokenizer.json."""
    split, level = data["pre_tokenizer"]["pretokenizers"]
    if split["pattern"] != {"Regex": PATTERN} or (split["behavior"], split["invert"]) != ("Isolated", False):
        raise ValueError("its text is split in another way than Qwen's")
    found = data["normalizer"]["type"], level["type"], level["use_regex"], level["add_prefix_space"]
    if found != ("NFC", "ByteLevel", False, False) or data["model"].get("ignore_merges"):
        raise ValueError(f"{found} is no Qwen tokenizer")
    merges, vocabulary = pairs_and_vocabulary(data["model"])
    missing = {*ALPHABET.values(), *(left + right for left, right in merges)} - vocabulary.keys()
    if missing:
        raise ValueError(f"its vocabulary lacks {sorted(missing)[0][:40]!a}")
    added = added_tokens(data)
    if any(token["normalized"] or token.get("lstrip") or token.get("rstrip") for token in added):
        raise ValueError("an added token takes white space with it or stands in normalised text")
    return BpeTokenizer(vocabulary, merges, added, spec)
