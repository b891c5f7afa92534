"""The runtime's byte-level BPE tokenizer against transformers' Qwen2Tokenizer, with a small vocabulary."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qsched_runtime import BundleError
from qsched_runtime.manifest import TokenizerSpec
from qsched_runtime.tokenize import load_tokenizer
from test_unigram import HARD as FOR_T5

from benchmarks import tokenizers_offline

LENGTH = 64
HARD = [
    *FOR_T5,
    "\n leading line", "  two blanks", " one", "\r\n\r\n", "end \n", "a\u3000\n \n b  c   d\t\te \x85\x85f \u2028 g",
    "IT'S we'Ll DON'T 'ſ 'S's' '' 'reve ''re", "ab12cd3.4-5,678", "x!!\n\n y?!\r z...\n",
    "e\u0301 \u0301a .\u0301b \u0e33 \u1100\u1161", "<|im_end|>\n<|im_start|>system\nx<|endoftext|><think>a</think>",
    "<|im_start|> < |im_end|> <|im_end|><|im_end|", "<|endoftext|>" * 100,
]  # fmt: skip


@pytest.fixture(scope="module")
def theirs() -> Any:
    return tokenizers_offline.qwen2()


def saved(theirs: Any, folder: Path) -> tuple[Path, TokenizerSpec]:
    theirs.save_pretrained(folder)
    text = theirs.apply_chat_template(message("\ufdd0"), tokenize=False, add_generation_prompt=True)
    prefix, suffix = text.split("\ufdd0")
    ids = theirs.eos_token_id, theirs.pad_token_id
    return folder / "tokenizer.json", TokenizerSpec("bpe", "tokenizer.json", LENGTH, -1, *ids, prefix, suffix)


@pytest.fixture(scope="module")
def ours(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(*saved(theirs, tmp_path_factory.mktemp("qwen2")))


def message(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def tokenized(theirs: Any, prompt: str) -> Any:
    """As diffusers' pipelines tokenize a prompt."""
    text = theirs.apply_chat_template(message(prompt), tokenize=False, add_generation_prompt=True)
    return theirs(text, padding="max_length", truncation=True, max_length=LENGTH)


def expected(theirs: Any, prompt: str) -> list[int]:
    found: list[int] = tokenized(theirs, prompt).input_ids
    return found


@pytest.mark.parametrize("text", HARD)
def test_hard_strings_agree_with_transformers(ours: Any, theirs: Any, text: str) -> None:
    assert ours(text) == expected(theirs, text)


WRITTEN = st.sampled_from(["<|im_end|>", "<|endoftext|>", "<think>", "'", "S", "ll", "ſ", "\n", "\r", " ", "\u3000"])
ANYTHING = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=20)


@settings(max_examples=500, deadline=None)
@given(st.lists(ANYTHING | WRITTEN, max_size=6).map("".join))
@example("\r\n\n 'S'LL  \n")
def test_any_text_agrees_with_transformers(ours: Any, theirs: Any, text: str) -> None:
    found = tokenized(theirs, text)
    assert ours(text) == found.input_ids
    assert ours.count(text) == sum(found.attention_mask)


def test_what_is_left_out_are_the_prompts_ids_beyond_the_length(ours: Any, theirs: Any) -> None:
    room = LENGTH - len(theirs(ours.spec.prefix).input_ids)
    assert room > 40
    for count in (0, room - 1, room, room + 1, room + 7):
        assert ours.left_out("1" * count) == max(0, count - room)


def split_elsewhere(data: dict[str, Any]) -> None:
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}{1,3}"


def lower(data: dict[str, Any]) -> None:
    data["normalizer"] = {"type": "Lowercase"}


def strips(data: dict[str, Any]) -> None:
    data["added_tokens"][0]["lstrip"] = True


def incomplete(data: dict[str, Any]) -> None:
    del data["model"]["vocab"]["Ġ"]


@pytest.mark.parametrize("change", [split_elsewhere, lower, strips, incomplete, dict.clear])
def test_what_would_be_read_otherwise_is_refused(theirs: Any, tmp_path: Path, change: Any) -> None:
    path, spec = saved(theirs, tmp_path)
    data = copy.deepcopy(json.loads(path.read_text("utf-8")))
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(BundleError, match=r"no bpe tokenizer\.json"):
        load_tokenizer(path, spec)
