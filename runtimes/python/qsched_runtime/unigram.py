"""T5's unigram tokenizer, read from tokenizer.json, in the standard library alone."""

import base64
import re
import unicodedata
from typing import Any

MOST_ADDED = 10_000  # tokens beside the vocabulary; textual inversions bring a few dozen
LONGEST_PIECE = 200  # characters of a piece or an added token
Pieces = list[tuple[str, float]]
STEPS = {"Precompiled", "Strip", "Replace", "WhitespaceSplit", "Metaspace"}  # T5Tokenizer skips Strip and Replace
WORD = re.compile(r"▁?(?:[^\s▁]|[\x1c-\x1f])+|▁")  # \s has U+001C..U+001F, Unicode's white space has not
# Grapheme clusters over the first letters of the characters' categories; ODD has those that join unlike their category.
CLUSTER = re.compile(r"C|\+*[^C+]?M*")
ODD = dict.fromkeys("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd", "+")
ODD |= dict.fromkeys("\u0e33\u0eb3\u200c\u200d\uff9e\uff9f🏻🏼🏽🏾🏿", "M") | dict.fromkeys("\u2028\u2029", "C")


class UnigramTokenizer:
    """`ids[: length - 1] + [EOS]`, padded to `length`, as transformers' T5Tokenizer gives them.

    `charsmap` is sentencepiece's normalizer: a Darts trie, then its texts. `added` tokens may be written in a prompt.
    """

    def __init__(
        self, vocabulary: Pieces, charsmap: bytes, length: int, eos_id: int, pad_id: int, unk_id: int, added: dict
    ) -> None:
        self.length, self.eos_id, self.pad_id, self.unk_id, self.added = length, eos_id, pad_id, unk_id, added
        self.pieces = {piece: (score, i) for i, (piece, score) in enumerate(vocabulary)}
        self.longest, self.unknown = max(map(len, self.pieces)), min(score for _, score in vocabulary) - 10
        self.written = pattern_of(added)
        size = int.from_bytes(charsmap[:4], "little")
        if len(charsmap) < size:
            raise ValueError(f"a charsmap of {len(charsmap)} bytes cannot hold a trie of {size}")
        trie = [int.from_bytes(charsmap[i : i + 4], "little") for i in range(4, size + 4, 4)]
        self.trie, self.texts = trie or [0] * 256, charsmap[size + 4 :]

    def __call__(self, prompt: str) -> list[int]:
        ids = self._all_ids(prompt)[: self.length - 1]
        return [*ids, self.eos_id] + [self.pad_id] * (self.length - 1 - len(ids))

    def count(self, prompt: str) -> int:
        """How many ids are no padding."""
        return min(len(self._all_ids(prompt)) + 1, self.length)

    def left_out(self, prompt: str) -> int:
        """How many of the prompt's ids are beyond `length`."""
        return max(0, len(self._all_ids(prompt)) - (self.length - 1))

    def _all_ids(self, prompt: str) -> list[int]:
        return [i for part in self.written.split(prompt) for i in self._ids(part)]

    def _ids(self, part: str) -> list[int]:
        if part in self.added:
            return [self.added[part]]
        kinds = "".join(ODD.get(c, unicodedata.category(c)[0]) for c in part)
        text = "".join(self._normalise(part[m.start() : m.end()]) for m in CLUSTER.finditer(kinds))
        return [i for word in WORD.findall(text) for i in self._best("▁" + word.removeprefix("▁"))]

    def _normalise(self, cluster: str) -> str:
        """The text of the shortest prefix in the trie, as spm_precompiled has it; else that of each character."""
        node, key = 0, cluster.encode() + b"\0"
        for byte in key if len(key) < 7 else b"":
            unit = self.trie[node]
            children = node ^ (unit >> 10) << (unit >> 6 & 8)
            if unit & 256:
                return self.texts[self.trie[children] & 0x7FFFFFFF :].split(b"\0", 1)[0].decode()
            node = children ^ byte
            if self.trie[node] & 0x800000FF != byte:
                break
        return "".join(map(self._normalise, cluster)) if len(cluster) > 1 else cluster

    def _best(self, word: str) -> list[int]:
        """The pieces with the best sum of scores (Viterbi); neighbouring unknown characters become one."""
        best = [(0.0, 0, 0)] + [(float("-inf"), 0, 0)] * len(word)  # for each end: score, last piece and its start
        for start in range(len(word)):
            for end in range(start + 1, min(start + self.longest, len(word)) + 1):
                default = self.unknown if end == start + 1 else float("-inf")
                score, i = self.pieces.get(word[start:end], (default, self.unk_id))
                if best[start][0] + score > best[end][0]:
                    best[end] = (best[start][0] + score, i, start)
        ids, end = [-1], len(word)
        while end:
            _, i, end = best[end]
            if i != self.unk_id or i != ids[-1]:
                ids.append(i)
        return ids[:0:-1]


def valid_id(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError("a token's id is no whole number of 0 to 2^31 - 1")
    return value


def added_tokens(data: dict[str, Any]) -> list[dict[str, Any]]:
    """ValueError for tokens that no prompt could hold, or more of them than any model adds."""
    found = [{"normalized": False, **token} for token in data["added_tokens"]]
    texts = [token["content"] for token in found]
    if len(found) > MOST_ADDED or not all(isinstance(t, str) and 0 < len(t) <= LONGEST_PIECE for t in texts):
        raise ValueError(f"added tokens must be {MOST_ADDED} texts at most, of 1 to {LONGEST_PIECE} characters")
    for token in found:
        valid_id(token["id"])
    return found


def pattern_of(tokens: dict) -> re.Pattern:
    """Any of the tokens, the longest first."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True))) or '(?!)'})")


def unigram_from_json(data: dict, length: int, eos_id: int, pad_id: int) -> UnigramTokenizer:
    """Raises KeyError, TypeError or ValueError for what is no T5 tokenizer.json."""
    model, normalizer, splitter = data["model"], data["normalizer"] or {"normalizers": []}, data["pre_tokenizer"]
    steps = [*dict(normalizer).get("normalizers", [normalizer]), *dict(splitter).get("pretokenizers", [splitter])]
    maps = {step["type"]: step.get("precompiled_charsmap", "") for step in steps}
    if model["type"] != "Unigram" or not {"Metaspace"} <= maps.keys() <= STEPS:
        raise ValueError(f"a {model['type']} model after {', '.join(maps)} is no T5 tokenizer")
    charsmap, unk_id = (
        base64.b64decode(maps.get("Precompiled", ""), validate=True),
        range(len(model["vocab"])).index(model["unk_id"]),
    )
    added, vocabulary = (
        {token["content"]: token["id"] for token in added_tokens(data)},
        [(p, s) for p, s in model["vocab"]],
    )
    if not all(
        isinstance(p, str) and 0 < len(p) <= LONGEST_PIECE and isinstance(s, (int, float)) for p, s in vocabulary
    ):
        raise ValueError(f"a vocabulary's pieces must be texts of 1 to {LONGEST_PIECE} characters with a score each")
    return UnigramTokenizer(vocabulary, charsmap, length, eos_id, pad_id, unk_id, added)
