"""Which models the loss looks through where nobody names one, how metrics are written, and fetching what they need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from qsched_edge.errors import MetricError, MissingExtraError, unknown_name
from qsched_edge.jaq.fetching import model_file, model_folder
from qsched_edge.jaq.settings import TermSettings
from qsched_edge.jaq.terms import LIBRARIES, QUALITY, TEXT_IMAGE

DEFAULT_SCORER = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"  # the smallest CLIP of LAION that open_clip has: 605 MB
HPS = "xswu/HPSv2/HPS_v2.1_compressed.pt"
TEXT_IMAGE_DEFAULT, QUALITY_DEFAULT = "clip", "clip-iqa"
# what arXiv 2509.01624 weighs as quality where pictures are of 512 pixels and more by a model that follows prompts
FAMILY_QUALITY = {"StableDiffusionXLPipeline": "hps", "FluxPipeline": "hps", "StableDiffusion3Pipeline": "hps"}
CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors")
WITHOUT = "without a scorer, --loss reference fits to the 32-bit bundle's pictures"


def with_defaults(terms: TermSettings, pipeline: str) -> TermSettings:
    """The metrics of the model's family wherever the settings name none."""
    return replace(
        terms,
        scorer=terms.scorer or DEFAULT_SCORER,
        text_image=terms.text_image or TEXT_IMAGE_DEFAULT,
        quality=terms.quality or FAMILY_QUALITY.get(pipeline, QUALITY_DEFAULT),
    )


def metric_of(registry: dict[str, str], text: str) -> tuple[str, str]:
    """What an option says: ("clip", "") for clip, ("hps", FILE) for hps:FILE or a checkpoint, the registry's first
    metric by the model for a folder or a hub id. Raises MetricError for another name."""
    kind, colon, what = text.partition(":")
    if kind in registry:
        if colon and not what:
            raise MetricError(f"metric {text!r} names no model after the colon: write {kind} or {kind}:MODEL")
        return kind, what
    if Path(text).suffix in CHECKPOINTS:
        return "hps", text
    if "/" in text or Path(text).is_dir():
        return next(iter(registry)), text
    raise MetricError(unknown_name("metric", text, registry))


def models_of(terms: TermSettings) -> Iterator[tuple[str, str]]:
    """(metric, model) of each term that looks through one."""
    for registry, text in ((TEXT_IMAGE, terms.text_image), (QUALITY, terms.quality)):
        if text:
            kind, what = metric_of(registry, text)
            own = {"hps": terms.hps or HPS}.get(kind, terms.scorer)
            yield kind, what if kind in LIBRARIES else what or own


def at_hand(terms: TermSettings, offline: bool) -> TermSettings:
    """The same with every model found, here or in the hub's cache, or fetched into it unless `offline`. Raises
    MetricError in one line for one that is not."""
    found: dict[str, str] = {}
    for kind, model in models_of(terms):
        if kind in LIBRARIES:
            library_metric(model, offline)
        elif model and model not in found:
            found[model] = str(hps_checkpoint(model, offline) if kind == "hps" else model_folder(model, offline))
    return replace(terms, found=tuple(found.items()))


def hps_checkpoint(model: str, offline: bool) -> Path:
    """HPSv2's weights, here or as a file of the hub."""
    try:
        return model_file(model, offline)
    except MetricError as error:
        fetch = (
            "" if "hf download" in str(error) else f"; HPSv2's weights: hf download {HPS.replace('HPSv2/', 'HPSv2 ')}"
        )
        raise MetricError(f"{error}{fetch}") from error


def library_metric(name: str, offline: bool) -> None:
    """Makes sure that pyiqa's metric of that name can be set up, fetching its weights unless `offline`."""
    from qsched_edge.jaq.iqa import create

    create(name, "cpu", offline)


def usable(terms: TermSettings, offline: bool, needed: bool) -> TermSettings:
    """`at_hand`; where a model is missing and the loss does not need it, the terms that look through one are left out.
    What a loss `needed` is an error that says what can be done without."""
    try:
        return at_hand(terms, offline)
    except (MetricError, MissingExtraError) as error:
        if needed:
            raise MetricError(f"{error}; {WITHOUT}") from error
    return replace(terms, text_image="", quality="")
