"""What the stock classes make of a configuration, without an instance: keys that its file lacks (older versions wrote
fewer) get the class's own defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from qsched_edge import torchvision_schema


def with_defaults(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a diffusers or transformers model class: those of `config`, else the class's defaults."""
    owner = configured_by(name)
    nested = config.get(getattr(owner, "base_config_key", ""))  # CLIPModel's file, which CLIPTextModel reads as well
    return {**defaults(owner), **{key: v for key, v in (nested or config).items() if not key.startswith("_")}}


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
