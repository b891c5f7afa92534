"""Models of scorers and judges: a folder, a file, or a repository of the hub, fetched once and kept in its cache.

What is fetched is said beforehand, with its size and where it is kept; the hub's client shows the progress. With
`offline`, or HF_HUB_OFFLINE=1, nothing is fetched, and a missing file is one line that says what to fetch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from qsched_edge.checkpoint.hub import HubId, hub_id
from qsched_edge.errors import MetricError, MissingExtraError
from qsched_edge.installed import install_command

OPEN_CLIP = ("open_clip_config.json", "open_clip_model.safetensors")
TRANSFORMERS = ("config.json", "model.safetensors")
SMALL = ("*config.json", "tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json", "*.model")


def model_folder(what: str, offline: bool, kinds: Sequence[Sequence[str]] = (OPEN_CLIP, TRANSFORMERS)) -> Path:
    """The folder of the model that `what` names: configuration, tokenizer and the first of `kinds` of files that is
    there in full. Raises MetricError with one line that says what is missing."""
    path = Path(what)
    if path.exists():
        return folder_with(path, kinds)
    known = named(what)
    for files in kinds:
        cached = [in_cache(known, name) for name in files]
        if all(cached):
            return Path(str(cached[0])).parent
    if offline or hub_is_off():
        raise MetricError(f"{what} is not in the hub's cache, and nothing is fetched offline: {command(known)}")
    listed = sizes_of(known)
    for files in kinds:
        if set(files) <= set(listed):
            return fetched(known, {n: s for n, s in listed.items() if n in files or small(n)})
    lists = " nor ".join(" and ".join(files) for files in kinds)
    raise MetricError(f"{known.repository} has neither {lists}: give another model")


def model_file(what: str, offline: bool) -> Path:
    """The file that `what` names, here or as OWNER/NAME[@REVISION]/FILE on the hub."""
    path = Path(what)
    if path.exists():
        if path.is_dir():
            raise MetricError(f"{path} is a folder: name a file in it")
        return path
    known = named(what)
    if not known.file:
        raise MetricError(f"{what} names no file of the repository: write OWNER/NAME/FILE")
    cached = in_cache(known, known.file)
    if cached:
        return cached
    if offline or hub_is_off():
        raise MetricError(f"{what} is not in the hub's cache, and nothing is fetched offline: {command(known)}")
    listed = sizes_of(known)
    if known.file not in listed:
        raise MetricError(f"{known.repository} has no file {known.file}: it has {', '.join(sorted(listed)[:8])} ...")
    return fetched(known, {known.file: listed[known.file]}) / known.file


def folder_with(path: Path, kinds: Sequence[Sequence[str]]) -> Path:
    """`path` itself; MetricError naming the first file that it lacks of the kind it is nearest to."""
    if not path.is_dir():
        raise MetricError(f"{path} is a file: give the folder of a model")
    lacking = [[name for name in files if not (path / name).is_file()] for files in kinds]
    if all(lacking):
        missing = min(lacking, key=len)[0]
        raise MetricError(f"model {path} has no {missing}: give the folder of a model with its configuration")
    return path


def named(what: str) -> HubId:
    known = hub_id(what)
    if known is None:
        raise MetricError(f"{what!r} is no path here and no hub id (OWNER/NAME[@REVISION][/FILE])")
    return known


def small(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in SMALL)


def command(known: HubId) -> str:
    """What fetches it by hand."""
    revision = f" --revision {known.revision}" if known.revision else ""
    return f"hf download {known.repository}{f' {known.file}' if known.file else ''}{revision}"


def hub_is_off() -> bool:
    import huggingface_hub.constants as hub

    return bool(hub.HF_HUB_OFFLINE)


def in_cache(known: HubId, name: str) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError as error:
        raise MissingExtraError(f"{known.repository} is on the hub: {install_command('calibrate')}") from error
    found = try_to_load_from_cache(known.repository, name, revision=known.revision or None)
    return Path(found) if isinstance(found, str) else None


def sizes_of(known: HubId) -> dict[str, int]:
    """File -> bytes, as the hub lists the repository."""
    from huggingface_hub import HfApi

    try:
        listed = HfApi().model_info(known.repository, revision=known.revision or None, files_metadata=True).siblings
    except Exception as error:  # the hub's client, httpx and the operating system each raise their own
        raise unreachable(known, error) from error
    return {file.rfilename: int(file.size or 0) for file in listed or ()}


def fetched(known: HubId, wanted: dict[str, int]) -> Path:
    """The cache's folder of the repository, with the files `wanted` in it."""
    from huggingface_hub import constants, snapshot_download

    total = sum(wanted.values())
    print(f"fetching {known.repository}: {total / 1e6:,.0f} MB, kept in {constants.HF_HUB_CACHE}", file=sys.stderr)
    try:
        return Path(snapshot_download(known.repository, revision=known.revision or None, allow_patterns=sorted(wanted)))
    except Exception as error:  # as above
        raise unreachable(known, error) from error


def unreachable(known: HubId, error: Exception) -> MetricError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    remedy = f"{command(known)}, or give a folder"
    return MetricError(f"{known.repository} cannot be fetched from the hub ({reason}): {remedy}")
