""" "module:name" -> the object: what the registries' values are, so that a registry imports nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def lookup(address: str) -> Any:
    module, name = address.split(":")
    return getattr(import_module(module), name)
