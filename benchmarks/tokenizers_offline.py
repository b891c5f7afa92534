"""Tokenizers that can be built without a download: CLIP's own, and a stand-in for T5's."""

from __future__ import annotations

import gzip
import importlib.resources
import json
from pathlib import Path
from typing import Any

PROMPTS = Path(__file__).parent.parent / "calib_prompts"
CLIP_MERGES = 48894  # as many as CLIP's vocabulary of 49,408 tokens uses


def clip() -> Any:
    """CLIP's real vocabulary, from the merges that the open_clip package carries."""
    from transformers import CLIPTokenizer

    packed = importlib.resources.files("open_clip").joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : CLIP_MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    from qsched_runtime.tokenize import ALPHABET

    alphabet = [ALPHABET[b] for b in sorted(ALPHABET, key=lambda b: (ord(ALPHABET[b]) > 255, ord(ALPHABET[b])))]
    tokens = [*alphabet, *(a + "</w>" for a in alphabet), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(
        vocab=vocabulary, merges=merges, unk_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=77
    )


def t5() -> Any:
    """A unigram vocabulary trained on this project's prompts, in T5's class and layout."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Tokenizer

    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=2000, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    lines = [line for path in sorted(PROMPTS.glob("*.txt")) for line in path.read_text("utf-8").splitlines()]
    unigram.train_from_iterator(lines, trainer)
    vocabulary = [(piece, score) for piece, score in json.loads(unigram.to_str())["model"]["vocab"]]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


BUILDERS = {"CLIPTokenizer": clip, "T5Tokenizer": t5}
