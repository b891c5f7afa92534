"""The runtime's tokenizer against transformers on ordinary and hard strings."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import TOKENIZER
from diffusers.loaders import TextualInversionLoaderMixin
from hypothesis import given, settings
from hypothesis import strategies as st
from qsched_runtime import BundleError
from qsched_runtime.manifest import TokenizerSpec
from qsched_runtime.tokenize import load_tokenizer
from tokenizers import AddedToken
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
    "a dog!!! in <sks> style, <SKS>_1, <sks>_2! foo  BAR AsIs asis ÉTÉ été",
    "<|endoftext|>x <|ENDOFTEXT|>x",
    "word " * 100,
    "\U0001f468\u200d\U0001f4bb + \ud7ff \U0010ffff",
]


def padded_with_a_mark(folder: Path) -> None:
    """As Stable Diffusion 2 and SDXL's second tokenizer: "!" pads and so is special wherever it stands."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "!"}))


def with_learned_words(folder: Path) -> None:
    """As after textual inversion; a token that begins another one tells the longest match from the first."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<sks>", "<sks>_1", "Foo Bar", "Été"])
    tokenizer.add_tokens([AddedToken("AsIs", normalized=False), AddedToken("<|endoftext|>x", normalized=False)])
    tokenizer.save_pretrained(folder)


KINDS = {"plain": lambda folder: None, "padded with !": padded_with_a_mark, "learned words": with_learned_words}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("tokenizer")
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder)
    KINDS[request.param](folder)
    theirs = CLIPTokenizer.from_pretrained(folder)
    theirs.save_pretrained(folder)
    spec = TokenizerSpec(
        "clip", "", theirs.model_max_length, theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id
    )
    return load_tokenizer(folder / "tokenizer.json", spec), theirs


def ids_of(theirs: CLIPTokenizer, text: str) -> list[int]:
    """As diffusers' pipelines tokenize a prompt: a learned word of several vectors first becomes its tokens."""
    text = TextualInversionLoaderMixin().maybe_convert_prompt(text, theirs)
    return theirs(text, padding="max_length", truncation=True, max_length=theirs.model_max_length).input_ids


@pytest.mark.parametrize("text", HARD)
def test_hard_strings_agree_with_transformers(pair, text: str) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = pair
    assert ours(text) == ids_of(theirs, text)


WRITTEN = st.sampled_from(["!", "<sks>", "<sks>_1", "Foo Bar", "foo\tbar", "AsIs", "Été", "<|endoftext|>", "x"])
ANYTHING = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=20)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANYTHING | WRITTEN, max_size=4).map("".join))
def test_any_text_agrees_with_transformers(pair, text: str) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = pair
    assert ours(text) == ids_of(theirs, text)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"vocab": {}}}')
    with pytest.raises(BundleError, match=r"no clip tokenizer\.json"):
        load_tokenizer(path, TokenizerSpec("clip", "tokenizer.json", 24, 0, 1, 1))
