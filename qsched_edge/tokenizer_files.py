"""A checkpoint's tokenizer -> the files a bundle holds of it, and what the runtime must know."""

from __future__ import annotations

from pathlib import Path

from qsched_runtime.manifest import TokenizerSpec

from qsched_edge import torchvision_schema
from qsched_edge.errors import RecipeError
from qsched_edge.recipes import ModelSpec, read_json
from qsched_edge.staging import write_json

TOKENIZERS = {"CLIPTokenizer": "clip", "T5Tokenizer": "unigram"}  # class -> kind in qsched.json
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))  # any of these, complete


def check_tokenizer(spec: ModelSpec, name: str) -> None:
    """Raise RecipeError for a folder without a vocabulary: transformers makes an empty tokenizer of it."""
    folder = spec.part(name)
    if not any(all((folder / file).is_file() for file in files) for files in VOCABULARIES):
        known = " or ".join(" with ".join(files) for files in VOCABULARIES)
        raise RecipeError(f"{folder} holds no tokenizer ({known}): the diffusers folder is incomplete")


def write_tokenizer(spec: ModelSpec, name: str, folder: Path, sequence_length: int) -> TokenizerSpec:
    """Save tokenizer.json (older checkpoints lack it) and say what the runtime must know of the tokenizer."""
    torchvision_schema.declare()
    import transformers

    kind = TOKENIZERS[spec.index[name][1].removesuffix("Fast")]
    stock = getattr(transformers, spec.index[name][1].removesuffix("Fast"))
    try:
        tokenizer = stock.from_pretrained(spec.part(name), local_files_only=True)
    except (OSError, ValueError, TypeError) as error:  # which one depends on the file that is missing or damaged
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(f"{spec.part(name)} holds no {stock.__name__} ({reason}): download it again") from error
    tokenizer.save_pretrained(folder)
    name_special_tokens_as_always(folder / "tokenizer_config.json")
    length = sequence_length if kind == "unigram" else tokenizer.model_max_length
    bos_id = -1 if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return TokenizerSpec(
        kind, f"{name}/tokenizer.json", length, bos_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    )  # fmt: skip


def name_special_tokens_as_always(path: Path) -> None:
    """transformers 5 lists extra special tokens under a key that earlier versions expect to be a table."""
    config = read_json(path)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
        write_json(path, config)
