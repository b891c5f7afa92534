"""What a conversion of tensors does, recorded on tensors without values and repeated on one real tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

COPIES = ("clone", "detach", "contiguous")  # which matter to a conversion and not to who reads a tensor once


@dataclass(frozen=True)
class Source:
    """A tensor of the file."""

    key: str


@dataclass(frozen=True)
class Derived:
    """`index` of what `function` makes of its arguments, sources and derived tensors among them."""

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    index: int | None


@dataclass(frozen=True)
class Recorded:
    """A tensor that a conversion gave: its shape, and what it is made of."""

    shape: tuple[int, ...]
    origin: Source | Derived


def record(
    convert: Callable[[dict[str, Any]], Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Recorded]:
    """Run `convert` on tensors of these `shapes` that have no values; what it returns, by name."""
    import torch
    from torch.overrides import TorchFunctionMode

    origins: dict[int, Source | Derived] = {}
    kept: list[Any] = []  # an id is a tensor's own while the tensor lives

    def note(tensor: Any, origin: Source | Derived) -> None:
        if id(tensor) not in origins:
            kept.append(tensor)
            origins[id(tensor)] = origin

    def named(value: Any) -> Any:
        """`value` with the tensors in it replaced by their origins."""
        if isinstance(value, torch.Tensor):
            return origins[id(value)]
        return type(value)(map(named, value)) if isinstance(value, (list, tuple)) else value

    class Recording(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") in COPIES:
                return args[0]
            found = func(*args, **(kwargs or {}))
            several = isinstance(found, (list, tuple)) and any(isinstance(f, torch.Tensor) for f in found)
            for index, tensor in enumerate(found if several else [found]):
                if isinstance(tensor, torch.Tensor):
                    note(tensor, Derived(func, named(args), kwargs or {}, index if several else None))
            return found

    leaves = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    for key, leaf in leaves.items():
        note(leaf, Source(key))
    with Recording():
        converted = convert(leaves)
    return {name: Recorded(tuple(t.shape), origins[id(t)]) for name, t in converted.items() if t is not None}


def replay(origin: Any, read: Callable[[str], Any]) -> Any:
    """The tensor itself, from those that `read` gives for the file's keys."""
    if isinstance(origin, Source):
        return read(origin.key)
    if isinstance(origin, Derived):
        found = origin.function(*replay(origin.args, read), **origin.kwargs)
        return found if origin.index is None else found[origin.index]
    return type(origin)(replay(o, read) for o in origin) if isinstance(origin, (list, tuple)) else origin
