"""Models from the Hugging Face hub: safetensors, configurations and tokenizers only, through its own cache."""

from __future__ import annotations

from pathlib import Path

from qsched_edge.errors import MissingExtraError, RecipeError

TEXTS = ["*.json", "*.txt", "*.model", "LICENSE*", "*.md"]


def fetch(source: str, revision: str, variant: str = "", whole: bool = False) -> Path:
    """The local folder of OWNER/NAME at `revision`, or the local file of OWNER/NAME/FILE; downloads what is missing.

    Of a pipeline only the components' weights are taken, those of `variant` where it is given; `whole` takes those at
    the root too. HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and HF_ENDPOINT mean what they mean everywhere.
    """
    weights = f"*{'.' + variant if variant else ''}.safetensors"
    patterns = [*TEXTS, f"*/{weights}", *([weights] if whole else [])]
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError(f'{source} is on the hub: pip install "qsched-edge[export]"') from error
    owner, name, *file = source.split("/", 2)
    repository = f"{owner}/{name}"
    try:
        if file:
            return Path(hf_hub_download(repository, file[0], revision=revision))
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"{source} ({revision}) cannot be fetched from the hub and is not in its cache: {reason}; "
            "download it elsewhere and give --model the folder"
        ) from error
