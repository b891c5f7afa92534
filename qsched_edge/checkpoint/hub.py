"""Models from the Hugging Face hub: safetensors, configurations and tokenizers only, through its own cache."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qsched_edge.checkpoint.weights import STEMS, weight_files
from qsched_edge.errors import MissingExtraError, RecipeError, WeightsError
from qsched_edge.installed import install_command

TEXTS = ["*.json", "*.txt", "*.model", "LICENSE*", "*.md"]
UNUSED = ("safety_checker", "image_encoder")  # components that no bundle holds
HUB_ID = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>refs/\w+/[\w.-]+|[\w.-]+))?(?:/(?P<file>.+))?"
)


@dataclass(frozen=True)
class HubId:
    """OWNER/NAME[@REVISION][/FILE]; `revision` is a branch, a tag or a commit."""

    repository: str
    revision: str = ""
    file: str = ""

    @property
    def name(self) -> str:
        return self.repository.split("/")[1]


def hub_id(text: str) -> HubId | None:
    """What `text` names on the hub; None where it can only be a path."""
    match = HUB_ID.fullmatch(text)
    if match is None or match["repository"].endswith(".safetensors"):
        return None
    return HubId(**match.groupdict(default=""))


@cache
def fetch(source: HubId, variant: str = "", whole: bool = False, without: tuple[str, ...] = ()) -> Path:
    """The local folder of a repository or the local file it names; downloads what is missing.

    Of a pipeline only the components' weights are taken, but for those `without`, with `whole` those at the root: files
    of `variant` where there are any, else plain ones, which is said. HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and HF_ENDPOINT
    mean what they mean everywhere.
    """
    if source.file:
        return downloaded(source, [])
    folder = downloaded(source, TEXTS)
    components = [""] if whole else [name for name in components_of(folder) if name not in without]
    for choice in dict.fromkeys((variant, "", "fp16")):  # the order of weight_files
        lacking = [name for name in components if not has_weights(folder / name, variant)]
        if not lacking:
            break
        downloaded(source, [f"{name}/{file}".lstrip("/") for name in lacking for file in patterns(choice)])
        taken = [name or "the model" for name in lacking if has_weights(folder / name, variant)]
        if taken and choice != variant:
            kinds = [f"{kind} files" if kind else "plain files" for kind in (variant, choice)]
            print(f"{source.repository}: no {kinds[0]} of {', '.join(taken)}, taking {kinds[1]}", file=sys.stderr)
    return folder


def components_of(folder: Path) -> list[str]:
    """The models that a pipeline's model_index.json names, but for those no bundle holds."""
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError):
        return []  # whoever reads the folder says what is wrong with it
    return [name for name in index if name not in UNUSED and (folder / name / "config.json").is_file()]


def patterns(variant: str) -> list[str]:
    """Names of weights, whole and sharded, as diffusers and transformers give them today and gave them before."""
    dot = f".{variant}" if variant else ""
    kinds = (f"{dot}.safetensors", f"{dot}-?????-of-?????.safetensors", f"-?????-of-?????{dot}.safetensors")
    return list(dict.fromkeys(stem + kind for stem in STEMS for kind in kinds))


def has_weights(folder: Path, variant: str) -> bool:
    try:
        return all(file.is_file() for file in weight_files(folder, variant))
    except WeightsError:
        return False


def transport_errors() -> tuple[type[Exception], ...]:
    """What the hub's HTTP library raises where there is no network: huggingface_hub lets it through for a commit."""
    try:
        from httpx import HTTPError
    except ImportError:
        return ()
    return (HTTPError,)


def downloaded(source: HubId, allowed: Sequence[str]) -> Path:
    """The cache's folder of the repository with what matches `allowed`, or the file that `source` names."""
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError(f"{source.repository} is on the hub: {install_command('export')}") from error
    revision = source.revision or "main"
    refusals: tuple[type[Exception], ...] = (
        HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, *transport_errors(),
    )  # fmt: skip
    try:
        if source.file:
            return Path(hf_hub_download(source.repository, source.file, revision=revision))
        return Path(snapshot_download(source.repository, revision=revision, allow_patterns=list(allowed)))
    except refusals as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RecipeError(
            f"{source.repository}@{revision} is no path here, cannot be fetched from the hub and is not in its cache: "
            f"{reason}; download it elsewhere and give the path"
        ) from error
