"""What the stock classes make of a configuration, without an instance: keys that its file lacks (older versions wrote
fewer) get the class's own defaults, and old scheduler settings are corrected as the pipeline corrects them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from qsched_edge import torchvision_schema

CORRECTING = ("StableDiffusionPipeline",)  # the only one here whose __init__ rewrites its scheduler's configuration


def with_defaults(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a diffusers or transformers model class: those of `config`, else the class's defaults."""
    owner = configured_by(name)
    nested = config.get(getattr(owner, "base_config_key", ""))  # CLIPModel's file, which CLIPTextModel reads as well
    return {**defaults(owner), **{key: v for key, v in (nested or config).items() if not key.startswith("_")}}


def corrected(pipeline: str, scheduler: Mapping[str, Any], switched: bool) -> dict[str, Any]:
    """The scheduler's configuration as the pipeline class changes it: `steps_offset` is 1, `clip_sample` off.

    from_config passes a corrected default on to no other scheduler: where another is put in its place (`switched`),
    only what the file says is corrected.
    """
    if pipeline not in CORRECTING:
        return dict(scheduler)
    owner = None if switched else configured_by(scheduler["_class_name"])
    known = {**(defaults(owner) if owner else {}), **scheduler}
    offset = {"steps_offset": 1} if known.get("steps_offset", 1) != 1 else {}
    clip = {"clip_sample": False} if known.get("clip_sample") is True else {}
    return {**scheduler, **offset, **clip}


@cache
def configured_by(name: str) -> Any:
    """The class whose arguments are the configuration: a transformers model's configuration class, or `name` itself;
    None for a class that neither library has."""
    torchvision_schema.declare()
    import diffusers
    import transformers

    found = getattr(diffusers, name, None) or getattr(transformers, name, None)
    return getattr(found, "config_class", None) or found


def defaults(owner: Any) -> dict[str, Any]:
    parameters = inspect.signature(owner.__init__).parameters.values() if owner else ()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.kind is not p.VAR_KEYWORD}
