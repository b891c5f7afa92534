"""A CLIP-style byte-level BPE over the captions' words: `python -m training.tokenizer`."""

from __future__ import annotations

from pathlib import Path

from training.captions import combinations
from training.loop import RUNS

FOLDER = RUNS / "tokenizer"
LENGTH = 24
VOCABULARY = 2000
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def build(folder: Path = FOLDER) -> Path:
    """Train on every caption and save in the CLIPTokenizer layout (vocab.json, merges.txt, tokenizer.json)."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    bpe = Tokenizer(models.BPE(unk_token=EOS, end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    room = VOCABULARY - len(alphabet) - 2  # the </w> copies of unseen bytes and the two special tokens
    trainer = trainers.BpeTrainer(
        vocab_size=room, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(sorted({c.caption for c in combinations()}), trainer)
    import json

    trained = json.loads(bpe.to_str())["model"]
    tokens = alphabet + [a + "</w>" for a in alphabet]
    tokens += [t for t in sorted(trained["vocab"], key=trained["vocab"].get) if t not in set(tokens)]
    tokens += [BOS, EOS]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(m) for m in trained["merges"]]
    tokenizer = CLIPTokenizer(
        vocab=vocab, merges=merges, bos_token=BOS, eos_token=EOS, unk_token=EOS, pad_token=EOS, model_max_length=LENGTH
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return folder


def load():
    from transformers import CLIPTokenizer

    if not (FOLDER / "vocab.json").exists():
        build()
    return CLIPTokenizer.from_pretrained(FOLDER)


if __name__ == "__main__":
    tokenizer = load()
    ids = tokenizer(["a red apple, noto style, on a blue background", "Naïve 猫!"]).input_ids
    longest = max(len(i) for i in tokenizer([c.caption for c in combinations()]).input_ids)
    print(len(tokenizer), longest, [tokenizer.convert_ids_to_tokens(i) for i in ids])
