"""A checkpoint's tokenizer -> the files a bundle holds of it, and what the runtime must know."""

from __future__ import annotations

from pathlib import Path

from qsched_runtime.manifest import TokenizerSpec

from qsched_edge import torchvision_schema
from qsched_edge.errors import RecipeError
from qsched_edge.recipes import ModelSpec, read_json
from qsched_edge.staging import write_json

TOKENIZERS = {"CLIPTokenizer": "clip", "T5Tokenizer": "unigram"}  # class -> kind in qsched.json


def write_tokenizer(spec: ModelSpec, name: str, folder: Path) -> TokenizerSpec:
    """Save tokenizer.json (older checkpoints lack it) and say what the runtime must know of the tokenizer."""
    torchvision_schema.declare()
    import transformers

    kind = TOKENIZERS[spec.index[name][1].removesuffix("Fast")]
    stock = getattr(transformers, spec.index[name][1].removesuffix("Fast"))
    tokenizer = stock.from_pretrained(spec.part(name), local_files_only=True)
    tokenizer.save_pretrained(folder)
    check_added_tokens(folder / "tokenizer.json", kind)
    name_special_tokens_as_always(folder / "tokenizer_config.json")
    length = spec.recipe.sequence_length if kind == "unigram" else tokenizer.model_max_length
    bos_id = -1 if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return TokenizerSpec(
        kind, f"{name}/tokenizer.json", length, bos_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    )  # fmt: skip


def check_added_tokens(path: Path, kind: str) -> None:
    """Refuse what the runtime does not know; `lstrip` and `rstrip` change no ids, white space goes anyway."""
    for token in read_json(path)["added_tokens"]:
        if token["single_word"] or (token["normalized"] and kind == "unigram"):
            flag = "single_word" if token["single_word"] else "normalized"
            raise RecipeError(f"{path.parent.name}: its added token {token['content']!r} is {flag}: save it without")


def name_special_tokens_as_always(path: Path) -> None:
    """transformers 5 lists extra special tokens under a key that earlier versions expect to be a table."""
    config = read_json(path)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
        write_json(path, config)
