"""The runtime's tokenizer against transformers on ordinary and hard strings."""

from pathlib import Path

import pytest
from conftest import TOKENIZER
from hypothesis import given, settings
from hypothesis import strategies as st
from qsched_runtime import BundleError
from qsched_runtime.manifest import TokenizerSpec
from qsched_runtime.tokenize import load_tokenizer
from transformers import CLIPTokenizer

HARD = [
    "",
    " ",
    "a red apple, twemoji style, on a blue background",
    "A RED Apple!!! it's, we'll, they'd've",
    "don't 'tis 's ''s '",
    "naïve café, e\u0301 decomposed, ﬁ ligature",
    "ΑΣΟΣ Σίσυφος ΟΔΥΣΣΕΥΣ",
    "İstanbul DŽ ǅ ẞ",
    "猫と犬 고양이 кошка",
    "שלום עולם مرحبا",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🍎🍏",
    "tabs\tand\nnew\r\nlines\x0b\x0c\x85\xa0\u2003\u3000end",
    "control\x00\x01\x1c\x1d\x1e\x1f\x7f\x9f",
    "1234567890 ½ Ⅳ ² १२३",
    "zero\u200bwidth\u200djoiner\ufeff",
    "<|endoftext|> inside <|startoftext|>",
    "word " * 100,
    "\U0001f468\u200d\U0001f4bb + \ud7ff \U0010ffff",
]


@pytest.fixture(scope="module")
def pair():  # type: ignore[no-untyped-def]
    theirs = CLIPTokenizer.from_pretrained(TOKENIZER)
    spec = TokenizerSpec(
        "clip", "", theirs.model_max_length, theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id
    )
    return load_tokenizer(TOKENIZER / "tokenizer.json", spec), theirs


def ids_of(theirs: CLIPTokenizer, text: str) -> list[int]:
    return theirs(text, padding="max_length", truncation=True, max_length=theirs.model_max_length).input_ids


@pytest.mark.parametrize("text", HARD)
def test_hard_strings_agree_with_transformers(pair, text: str) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = pair
    assert ours(text) == ids_of(theirs, text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40))
def test_any_text_agrees_with_transformers(pair, text: str) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = pair
    assert ours(text) == ids_of(theirs, text)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"vocab": {}}}')
    with pytest.raises(BundleError, match=r"no clip tokenizer\.json"):
        load_tokenizer(path, TokenizerSpec("clip", "tokenizer.json", 24, 0, 1, 1))
