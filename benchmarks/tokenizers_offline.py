"""Tokenizers that can be built without a download: CLIP's own, and stand-ins for T5's and Qwen's."""

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


CHAT = """{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}
{%- endif %}"""


def qwen2() -> Any:
    """A byte-level BPE vocabulary trained on this project's prompts, in Qwen's class, with the words of Qwen3's chat
    template for messages of a user."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    lines = [line for path in sorted(PROMPTS.glob("*.txt")) for line in path.read_text("utf-8").splitlines()]
    bpe.train_from_iterator(lines, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    found = Qwen2Tokenizer(vocab=model["vocab"], merges=merges, eos_token="<|im_end|>", model_max_length=131072)
    found.add_tokens([AddedToken("<|im_start|>", special=True)])
    found.add_tokens([AddedToken(word, normalized=False) for word in ("<think>", "</think>")])
    found.chat_template = CHAT
    return found


BUILDERS = {"CLIPTokenizer": clip, "T5Tokenizer": t5, "Qwen2Tokenizer": qwen2}
