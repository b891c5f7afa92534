"""The runtime's T5 tokenizer against transformers, with the charsmap of the real T5 and a small vocabulary.

vectors/nmt_nfkc.bin.xz is sentencepiece's rule "nmt_nfkc", compiled: the file src/nmt_nfkc.bin of
github.com/huggingface/spm_precompiled (Apache-2.0), SHA-256 0942789e0111452f....
"""

import base64
import json
import lzma
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from qsched_runtime.unigram import UnigramTokenizer, unigram_from_json
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import T5Tokenizer

CHARSMAP = lzma.decompress((Path(__file__).parent / "vectors/nmt_nfkc.bin.xz").read_bytes())
SPECIAL = ["<pad>", "</s>", "<unk>"]
SENTINELS = [f"<extra_id_{i}>" for i in reversed(range(12))]
LENGTH = 64
HARD = [
    "",
    " ",
    " \t\n ",
    "a red apple, twemoji style, on a blue background",
    "  A RED   Apple!!! it's, we'll, they'd've  ",
    "naïve café, e\u0301 decomposed, ﬁ ligature, ǆ, ﷺ",
    "ΑΣΟΣ Σίσυφος ΟΔΥΣΣΕΥΣ ᾳ̂",
    "İstanbul DŽ ǅ ẞ ſ Å Å",
    "猫と犬 고양이 кошка ｶﾞｷﾞ ガ か\u3099",
    "ᄀ\u1161\u11a8 각 한국어",
    "ｆｕｌｌ－ｗｉｄｔｈ　１２３！ ～",
    "שלום עולם مرحبا ﻻ שּׁ",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🍎🍏 👍🏽 🇩🇪 ™️ ©\ufe0f",
    "tabs\tand\nnew\r\nlines\x0b\x0c\x85\xa0\u2003\u3000end\u2028line\u2029paragraph",
    "control\x00\x01\x1c\x1d\x1e\x1f\x7f\x9f soft\xadhyphen",
    "1234567890 ½ ¼\u0301 Ⅳ ² १२३ ㍿ ㋿",
    "zero\u200bwidth\u200djoiner\u200cand\ufeff",
    "half ½\u0301 ª\u0301\u0302 \xa0\u0301 \u3000\u0301 ™\u0301 ½\u0e33 e\u0301🏽 \u0600e\u0301",
    "นำ้ กำลัง ສຳ မြန်မာဘာသာ हिन्दी क्षि தமிழ்",
    "a▁b ▁▁c ▁ d▁ ▁",
    "</s> inside <pad>s<unk> and <extra_id_3>,<extra_id_11><extra_id_1>",
    "written＜pad＞ wide ＜／s＞ <unk>猫犬<unk> <extra_id_99> < pad > <PAD>",
    "<extra_id_0> \u0301 spaced \u3000</s>\u3000ends</s>",
    "word " * 100,
    "a" * 300,
    "猫" * 300,
    "猫 " * 100,
    "</s>" * 100,
    "\U0001f468\u200d\U0001f4bb + \ud7ff \U0010ffff \ue000",
]
# Characters that meet in one cluster, split words, vanish or turn into others; pieces and special tokens among them.
TRICKY = [*"aeé½ªÅ™ﬁ猫 ▁<>s/か"]
TRICKY += ["\u0301", "\u0308", "\u3099", "\u0e33", "\u200d", "\u200b", "\u3000", "\xa0", "\r", "\n"]
TRICKY += ["\x00", "\x01", "\x1c", "\x85", "\xad", "\u0600", "\u2028", "＜", "🍎", "🏽", "\ufe0f", "ﾞ", "가", "\u1100"]
TRICKY += [*SPECIAL, *SENTINELS, "▁a", "style", "apple"]
# Where ours may differ, for brevity. ODD: the category of these marks and letters does not tell how they join, which
# matters right beside a character of two bytes or an accent. STRIPPED: a sentinel takes the white space under a mark.
ODD = re.compile(
    "[\u102b\u102c\u1038\u1062-\u1064\u1067-\u106d\u1083\u1087-\u108c\u108f\u109a-\u109c\u1a61\u1a63\u1a64\uaa7b"
    "\uaa7d\U000111c2\U000111c3\U00011720\U00011721\U0001193f\U00011941\U00011a84-\U00011a89\U00011d46"
    "\U000e0020-\U000e007f]|\u200d[\u203c\u2049\u2122\u2139\u24c2\u3297\u3299]"
)
STRIPPED = re.compile("<extra_id_\\d+>\\s+[\u0301\u0308\u3099\u0e33\u200d\ufe0f\uff9e🏽]")


def vocabulary() -> list[tuple[str, float]]:
    """T5's order: special tokens, trained pieces, sentinels. Scores are rounded so that divisions tie."""
    trainee = Tokenizer(models.Unigram())
    trainee.normalizer = normalizers.Precompiled(CHARSMAP)
    trainee.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(vocab_size=4000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"])
    prompts = [path.read_text("utf-8") for path in sorted(ROOT.glob("calib_prompts/*.txt"))]
    trainee.train_from_iterator([*"\n".join(prompts).splitlines(), *HARD], trainer)
    # Letters and marks of their own, lest differences hide in <unk>; ideographs, Hangul and emoji stay unknown.
    single = {chr(c): -12.5 for c in range(0x21, 0x3100) if unicodedata.category(chr(c))[0] in "LMNPS"}
    trained = {piece: round(score, 1) for piece, score in json.loads(trainee.to_str())["model"]["vocab"]}
    pieces = {p: s for p, s in {**single, **trained}.items() if p not in SPECIAL}
    return [*((t, 0.0) for t in SPECIAL), *pieces.items(), *((t, 0.0) for t in SENTINELS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder as transformers writes it."""
    theirs = T5Tokenizer(vocab=vocabulary(), _spm_precompiled_charsmap=CHARSMAP, extra_ids=len(SENTINELS))
    path = tmp_path_factory.mktemp("tokenizer")
    theirs.save_pretrained(path)
    return path


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tokenizer.json").read_text("utf-8"))


def rewritten(folder: Path, out: Path, settings: dict[str, Any] | None = None, **parts: Any) -> Path:
    """A copy of the tokenizer folder with parts of its tokenizer.json and tokenizer_config.json replaced."""
    out.mkdir()
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (out / "tokenizer_config.json").write_text(json.dumps({**config, **(settings or {})}), "utf-8")
    (out / "tokenizer.json").write_text(json.dumps({**read(folder), **parts}), "utf-8")
    return out


class Pair:
    """Our tokenizer and transformers' of the same folder."""

    def __init__(self, folder: Path, length: int = LENGTH) -> None:
        self.theirs, self.length = T5Tokenizer.from_pretrained(folder), length
        self.ours = unigram_from_json(read(folder), length, self.theirs.eos_token_id, self.theirs.pad_token_id)

    def expected(self, text: str) -> list[int]:
        return self.theirs(text, padding="max_length", truncation=True, max_length=self.length).input_ids


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return Pair(folder)


@pytest.fixture(scope="module")
def bare(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Without a normalizer white space, controls and marks reach the splitter as they are."""
    return Pair(rewritten(folder, tmp_path_factory.mktemp("bare") / "tokenizer", normalizer=None))


@pytest.fixture(scope="module")
def flux(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The layout of tokenizer_2 in FLUX: more normalizers, Metaspace alone, sentinels that take white space too."""
    data = read(folder)
    more = [
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    ]
    greedy = [t | {"lstrip": True, "rstrip": True} for t in data["added_tokens"] if t["content"] in SENTINELS]
    parts = {
        "normalizer": {"type": "Sequence", "normalizers": [data["normalizer"], *more]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    }
    decoder = {"added_tokens_decoder": {str(t.pop("id")): t for t in greedy}}
    both = Pair(rewritten(folder, tmp_path_factory.mktemp("flux") / "tokenizer", decoder, **parts))
    assert [t.lstrip for t in both.theirs.added_tokens_decoder.values()].count(True) == len(SENTINELS)
    return both


@pytest.mark.parametrize("kind", ["pair", "bare", "flux"])
@pytest.mark.parametrize("text", HARD)
def test_hard_strings_agree_with_transformers(kind: str, text: str, request: pytest.FixtureRequest) -> None:
    both = request.getfixturevalue(kind)
    assert both.ours(text) == both.expected(text)


@settings(max_examples=400, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40))
def test_any_text_agrees_with_transformers(pair: Pair, bare: Pair, text: str) -> None:
    assume(not ODD.search(text))
    assert pair.ours(text) == pair.expected(text)
    assert bare.ours(text) == bare.expected(text)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(TRICKY), max_size=30).map("".join))
def test_tricky_neighbours_agree_with_transformers(pair: Pair, bare: Pair, flux: Pair, text: str) -> None:
    assert pair.ours(text) == pair.expected(text)
    assert bare.ours(text) == bare.expected(text)
    assert flux.ours(text) == flux.expected(text) or STRIPPED.search(text)


def test_every_character_of_the_first_plane_agrees_with_transformers(folder: Path) -> None:
    both = Pair(folder, 400)
    known = [c for c in map(chr, range(0x10000)) if unicodedata.category(c) not in ("Cs", "Cn", "Co", "Lo")]
    texts = ["".join(f"a{c}b " for c in known[i : i + 64]) for i in range(0, len(known), 64)]
    assert [both.ours(text) for text in texts] == [both.expected(text) for text in texts]


@pytest.mark.parametrize("length", [1, 2, 3, 64])
def test_ids_fill_the_length(folder: Path, length: int) -> None:
    both = Pair(folder, length)
    for text in ("", "a red apple", "word " * 100):
        assert both.ours(text) == both.expected(text)
        assert len(both.ours(text)) == length


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.text("ab猫▁", min_size=1, max_size=4), st.integers(-25, 0), max_size=20),
    st.text("ab猫 ▁<>", max_size=20),
    st.sampled_from([[], ["<a", "<a>"]]),
)
@example({"▁": 0, "猫a": -10, "b": -10, "ab": 0}, "猫ab", [])  # 猫 alone costs 20, so that the two ways tie
@example({"▁": 0, "b": -10, "a猫": -10, "ba": 0}, "ba猫", [])
def test_any_scores_give_the_division_that_tokenizers_gives(
    scores: dict[str, int], text: str, tokens: list[str]
) -> None:
    """Whole numbers tie often; a token that begins another one tells the longest match from the first."""
    pieces = [("<unk>", 0.0), *((piece, float(score)) for piece, score in scores.items())]
    theirs = Tokenizer(models.Unigram(pieces, unk_id=0))
    theirs.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    theirs.add_special_tokens(tokens)
    added = {token: theirs.token_to_id(token) for token in tokens}
    ours = UnigramTokenizer(pieces, b"", LENGTH, 777, 888, 0, added)
    ids = theirs.encode(text).ids
    assert ours(text) == [*ids, 777] + [888] * (LENGTH - 1 - len(ids))


def replaced(data: Any, value: Any, *path: str) -> Any:
    """A copy of `data` with `value` where `path` leads to."""
    head, *rest = path
    return data | {head: replaced(data[head], value, *rest) if rest else value}


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (None, ["model"]),
        ([], ["model"]),
        ("BPE", ["model", "type"]),
        ({"a": 0}, ["model", "vocab"]),
        ([], ["model", "vocab"]),
        (["a", "b"], ["model", "vocab"]),
        ([["a", "b"], ["c", "d"]], ["model", "vocab"]),
        (None, ["model", "unk_id"]),
        (10**6, ["model", "unk_id"]),
        (-1, ["model", "unk_id"]),
        ({"type": "Lowercase"}, ["normalizer"]),
        ("Precompiled", ["normalizer"]),
        ({"type": "Sequence", "normalizers": ["Precompiled"]}, ["normalizer"]),
        (None, ["normalizer", "precompiled_charsmap"]),
        (5, ["normalizer", "precompiled_charsmap"]),
        ("five!", ["normalizer", "precompiled_charsmap"]),
        (base64.b64encode(CHARSMAP[:100_000]).decode(), ["normalizer", "precompiled_charsmap"]),
        (None, ["pre_tokenizer"]),
        ({"type": "ByteLevel"}, ["pre_tokenizer"]),
        ({"type": "WhitespaceSplit"}, ["pre_tokenizer"]),
        (None, ["added_tokens"]),
        (["</s>"], ["added_tokens"]),
    ],
)
def test_what_is_no_t5_tokenizer_is_refused(folder: Path, value: Any, path: list[str]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        unigram_from_json(replaced(read(folder), value, *path), LENGTH, 1, 0)


@pytest.mark.parametrize("key", ["model", "normalizer", "pre_tokenizer", "added_tokens"])
def test_a_missing_key_is_refused(folder: Path, key: str) -> None:
    data = read(folder)
    del data[key]
    with pytest.raises(KeyError, match=key):
        unigram_from_json(data, LENGTH, 1, 0)
