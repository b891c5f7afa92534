"""JSON from a stranger: limits before it is parsed, no duplicate keys, no NaN, and the part of JSON Schema that
qsched.schema.json uses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from qsched_runtime.errors import BundleError

DEEPEST = 40


@dataclass(frozen=True)
class JsonLimits:
    """Most bytes, most arrays and objects, most commas: what parsing takes in memory is bounded by them."""

    bytes: int
    nests: int
    commas: int


MANIFEST = JsonLimits(4 * 2**20, 200_000, 600_000)  # 64 schedules and their calibrations' curves
TOKENIZER = JsonLimits(32 * 2**20, 1_000_000, 3_000_000)  # T5's and CLIP's have 2 to 4 MB


class MalformedError(ValueError):
    """What is wrong, and where in the document."""


def parse_json(data: bytes, limits: JsonLimits, where: str) -> Any:
    """The value; BundleError for what is no JSON, is too much of it, or says a thing twice."""
    try:
        if len(data) > limits.bytes or data.count(b",") > limits.commas:
            raise MalformedError("it is larger than any bundle needs")
        if data.count(b"[") + data.count(b"{") > limits.nests:
            raise MalformedError("it has more arrays and objects than any bundle needs")
        value = json.loads(data.decode("utf-8"), object_pairs_hook=distinct, parse_constant=no_constant)
        check_values(value)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where} is malformed ({type(error).__name__}: {error}): make the bundle again") from error
    return value


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise MalformedError(f"the key {twice[:40]!a} stands twice")
    return found


def no_constant(name: str) -> Any:
    raise MalformedError(f"{name} is no number of JSON")


def check_values(root: Any) -> None:
    """MalformedError for what is nested too deeply, a number beyond float64, or text that no UTF-8 holds."""
    level, depth = [root], 0
    while level:
        if depth > DEEPEST:
            raise MalformedError(f"it is nested more than {DEEPEST} deep")
        level, depth = [child for value in level for child in children(value)], depth + 1


def children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, float) and not math.isfinite(value):
        raise MalformedError("a number is larger than float64 holds")
    elif isinstance(value, str) and any(0xD800 <= ord(c) <= 0xDFFF for c in value if c > "\ud7ff"):
        raise MalformedError("a text holds half of a surrogate pair")


TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def check_schema(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str = "") -> None:
    """MalformedError, naming the place, unless `value` is as `schema` says; `root` holds the $defs."""
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    place = where or "the document"
    kinds = schema.get("type")
    if kinds and not is_a(value, [kinds] if isinstance(kinds, str) else kinds):
        raise MalformedError(f"{place} must be {kinds}")
    if "const" in schema and value != schema["const"]:
        raise MalformedError(f"{place} must be {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        raise MalformedError(f"{place} must be one of {schema['enum']}")
    if "anyOf" in schema:
        check_any(value, schema["anyOf"], root, where)
    if isinstance(value, dict):
        check_object(value, schema, root, where)
    elif isinstance(value, list):
        bounded(len(value), schema, "minItems", "maxItems", f"{place}'s length")
        for i, item in enumerate(value if "items" in schema else ()):
            check_schema(item, schema["items"], root, f"{where}[{i}]")
    elif isinstance(value, str):
        bounded(len(value), schema, "minLength", "maxLength", f"{place}'s length")
        if "pattern" in schema and (value.endswith("\n") or not re.search(schema["pattern"], value)):
            raise MalformedError(f"{place} is {value[:40]!a}, which does not fit {schema['pattern']}")
    elif is_a(value, ["number"]):
        bounded(value, schema, "minimum", "maximum", place)


def is_a(value: Any, kinds: list[str]) -> bool:
    types = tuple(t for kind in kinds for t in TYPES[kind])
    return isinstance(value, types) and (not isinstance(value, bool) or "boolean" in kinds)


def check_any(value: Any, choices: list[dict[str, Any]], root: dict[str, Any], where: str) -> None:
    for choice in choices:
        try:
            return check_schema(value, choice, root, where)
        except MalformedError:
            continue
    raise MalformedError(f"{where or 'the document'} is none of what it may be: an unknown source or type")


def check_object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], where: str) -> None:
    known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    bounded(len(value), schema, "minProperties", "maxProperties", f"{where or 'the document'}'s number of keys")
    for key in schema.get("required", ()):
        if key not in value:
            raise MalformedError(f"{where or 'the document'} lacks {key!r}")
    for key, item in value.items():
        if "propertyNames" in schema:
            check_schema(key, schema["propertyNames"], root, f"the key {key[:40]!a} of {where or 'the document'}")
        rule = known.get(key, other)
        if rule is False:
            raise MalformedError(f"{where or 'the document'} has the unknown key {key[:40]!a}")
        if rule is not True:
            check_schema(item, rule, root, f"{where}.{key[:40]}".lstrip("."))


def bounded(value: Any, schema: dict[str, Any], low: str, high: str, what: str) -> None:
    if value < schema.get(low, value) or value > schema.get(high, value):
        raise MalformedError(f"{what} is out of range: {schema.get(low, '')} to {schema.get(high, '')}")
