"""A command takes its options as one value; typer asks for them one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def one_by_one(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, whose one parameter is a dataclass, with a parameter for each of its fields; another as it is."""
    kinds = list(get_type_hints(command).values())
    if len(signature(command).parameters) != 1 or not is_dataclass(kinds[0]):
        return command
    kind: Any = kinds[0]
    hints = get_type_hints(kind, include_extras=True)

    def called(**options: Any) -> None:
        command(kind(**options))

    own_first = sorted(fields(kind), key=lambda f: f.name not in kind.__annotations__)  # before those of a base class
    asked = [
        Parameter(f.name, Parameter.KEYWORD_ONLY, default=default_value(f), annotation=hints[f.name]) for f in own_first
    ]
    called.__signature__ = Signature(asked)  # type: ignore[attr-defined]
    called.__name__, called.__doc__, called.__annotations__ = command.__name__, command.__doc__, hints
    return called


def default_value(option: Field[Any]) -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return Parameter.empty if option.default is MISSING else option.default
