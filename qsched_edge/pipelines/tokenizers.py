"""A checkpoint's tokenizer -> the files a bundle holds of it, and what the runtime must know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsched_runtime.manifest import TokenizerSpec

from qsched_edge import torchvision_schema
from qsched_edge.checkpoint.inversion import Learned, learned
from qsched_edge.checkpoint.recipes import ModelSpec, read_json
from qsched_edge.errors import RecipeError
from qsched_edge.pipelines import Layout
from qsched_edge.work.staging import write_json

TOKENIZERS = {
    "CLIPTokenizer": "clip",
    "T5Tokenizer": "unigram",
    "Qwen2Tokenizer": "bpe",
}  # class -> kind in qsched.json
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))  # any of these, complete


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of transformers, how many tokens the text encoder reads, and what stands around a prompt."""

    name: str
    kind: str
    length: int
    stock: Any
    around: tuple[str, str] = ("", "")

    def write(self, folder: Path) -> TokenizerSpec:
        """Save tokenizer.json (older checkpoints lack it) and say what the runtime must know of the tokenizer."""
        self.stock.save_pretrained(folder)
        name_special_tokens_as_always(folder / "tokenizer_config.json")
        bos_id = -1 if self.stock.bos_token_id is None else self.stock.bos_token_id
        file = f"{self.name}/tokenizer.json"
        return TokenizerSpec(
            self.kind, file, self.length, bos_id, self.stock.eos_token_id, self.stock.pad_token_id, *self.around
        )  # fmt: skip


def load_tokenizer(spec: ModelSpec, name: str, layout: Layout) -> Tokenizer:
    """Raises RecipeError for one that is missing or unreadable, or lacks the tokens that end and fill a prompt."""
    torchvision_schema.declare()
    import transformers

    folder, stock = spec.part(name), spec.class_of(name).removesuffix("Fast")
    if not any(all((folder / file).is_file() for file in files) for files in VOCABULARIES):
        known = " or ".join(" with ".join(files) for files in VOCABULARIES)  # without, transformers makes an empty one
        raise RecipeError(f"{folder} holds no tokenizer ({known}): the diffusers folder is incomplete")
    try:
        tokenizer = getattr(transformers, stock).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception for a file it cannot parse
        raise RecipeError(f"{folder} cannot be read as a {stock} ({error}): the folder is damaged") from error
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise RecipeError(f"{folder}: its tokenizer names no eos_token or no pad_token")
    kind = TOKENIZERS[stock]
    check_added_tokens(tokenizer.added_tokens_decoder.values(), kind, name)
    length = tokenizer.model_max_length if kind == "clip" else layout.sequence_length
    return Tokenizer(name, kind, length, tokenizer, around(tokenizer, layout.chat, folder) if layout.chat else ("", ""))


MARK = "\ufdd0"  # which is in no template
PROMPTS = ("a red apple", "", " two\n\n  lines \n", "<|im_end|>")


def around(tokenizer: Any, settings: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    """What the chat template writes before and after a user's message; RecipeError where it changes the message."""

    def rendered(prompt: str) -> str:
        message = [{"role": "user", "content": prompt}]
        return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, **settings))

    if tokenizer.padding_side != "right" or not tokenizer.chat_template:
        raise RecipeError(
            f"{folder}: its tokenizer has no chat template, or pads on the left: the folder is incomplete"
        )
    before, _, after = rendered(MARK).partition(MARK)
    if any(rendered(prompt) != before + prompt + after for prompt in PROMPTS):
        raise RecipeError(f"{folder}: its chat template does more than stand around the prompt, which no runtime does")
    return before, after


def load_tokenizers(spec: ModelSpec, layout: Layout) -> dict[str, Tokenizer]:
    """All tokenizers that components read; raises RecipeError for one that does not fit its text encoder."""
    found = {}
    for plan in layout.components:
        source = plan.inputs.get("input_ids")
        if source:
            tokenizer = load_tokenizer(spec, source["tokenizer"], layout)
            check_fit(tokenizer, spec.config(plan.component), spec.part(tokenizer.name))
            add_words(tokenizer, learned(spec, plan.component) if tokenizer.kind == "clip" else ())
            found[tokenizer.name] = tokenizer
    return found


def add_words(tokenizer: Tokenizer, words: Iterable[Learned]) -> None:
    """Give each word its tokens, as diffusers does; RecipeError for one that is a token already."""
    for word in words:
        known = [token for token in (*word.tokens, f"{word.word}_1") if token in tokenizer.stock.get_vocab()]
        if known:
            line = f"{word.file.name}: {known[0]!r} is a token of {tokenizer.name} already"
            raise RecipeError(f"{line}: give another word, --textual-inversion WORD={word.file.name}")
        tokenizer.stock.add_tokens(word.tokens)


def check_fit(tokenizer: Tokenizer, encoder: Mapping[str, Any], folder: Path) -> None:
    """Every id must have a row in the encoder's table, and CLIP's a position for each token."""
    rows, positions = encoder.get("vocab_size"), encoder.get("max_position_embeddings")
    if rows is not None and len(tokenizer.stock) > rows:
        raise RecipeError(f"{folder} has {len(tokenizer.stock)} tokens, its text encoder knows {rows}")
    if tokenizer.kind == "clip" and positions is not None and tokenizer.length != positions:
        raise RecipeError(
            f"{folder}: its model_max_length is {tokenizer.length}, its text encoder reads {positions} tokens"
        )


def check_added_tokens(tokens: Iterable[Any], kind: str, name: str) -> None:
    """Refuse what the runtime does not know; `lstrip` and `rstrip` change no ids where white space goes anyway."""
    flags = {"clip": ("single_word",), "unigram": ("single_word", "normalized"),
             "bpe": ("single_word", "normalized", "lstrip", "rstrip")}[kind]  # fmt: skip
    for token in tokens:
        for flag in flags:
            if getattr(token, flag):
                raise RecipeError(f"{name}: its added token {token.content!r} is {flag}: save it without")


def name_special_tokens_as_always(path: Path) -> None:
    """transformers 5 lists extra special tokens under a key that earlier versions expect to be a table."""
    config = read_json(path)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
        write_json(path, config)
