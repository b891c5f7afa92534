"""qsched.json: parsed, checked, turned into frozen values. The only file of a bundle that a runtime must parse."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qsched_runtime.errors import BundleError, RequestError
from qsched_runtime.files import check_distinct, check_file, check_path, inside, read_limited, sha256
from qsched_runtime.noise import ALGORITHM
from qsched_runtime.packed import Packed
from qsched_runtime.request import MOST_PIXELS, integer
from qsched_runtime.schedule import COLUMNS, Coefficients, ScheduleTable, Shift, ShiftLine
from qsched_runtime.strict import MANIFEST, check_schema, parse_json

__all__ = ["BundleFile", "Manifest", "check_file", "inside", "place_of", "read", "sha256"]
FORMAT, VERSION, BIAS_VERSION = "qsched-bundle", 1, 2  # 2: a schedule has a bias
SHIFT_VERSION = 3  # a schedule shifts with the size, or a tokenizer is "bpe"
VERSIONS = (VERSION, BIAS_VERSION, SHIFT_VERSION)
NAME, SCHEMA = "qsched.json", "qsched.schema.json"
MOST_ZEROS = 2**20  # values of an input that is always zero


@dataclass(frozen=True)
class BundleFile:
    """A file inside the bundle: POSIX path relative to it, size in bytes, SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Component:
    """One ONNX graph. `inputs` says where each input comes from (docs/bundle.md lists the sources)."""

    name: str
    file: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class TokenizerSpec:
    """`kind` "clip", "unigram" or "bpe"; ids are padded with `pad_id` to `length`. `prefix` and `suffix` stand around
    every prompt: the words of a chat template ("bpe" only)."""

    kind: str
    file: str
    length: int
    bos_id: int
    eos_id: int
    pad_id: int
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True)
class LatentSpec:
    """Default latents [channels, height, width]; the decoder sees x / scaling_factor + shift_factor.

    Height and width are multiples of `multiple_of`; `patch` is the side of the patches the backbone reads (0: none).
    """

    channels: int
    height: int
    width: int
    scaling_factor: float
    shift_factor: float
    pixels_per_latent: int
    multiple_of: int
    patch: int

    def shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """[C, h, w] for a picture of `height` x `width` pixels; RequestError if the network cannot take it."""
        grid = self.pixels_per_latent * self.multiple_of
        for name, pixels in (("height", height), ("width", width)):
            if pixels is not None and integer(name, pixels, 1, MOST_PIXELS) % grid:
                raise RequestError(f"{name} {pixels} does not fit this model: use a multiple of {grid}")
        sides = (height or self.height * self.pixels_per_latent, width or self.width * self.pixels_per_latent)
        return (self.channels, *(side // self.pixels_per_latent for side in sides))  # type: ignore[return-value]


@dataclass(frozen=True)
class Guidance:
    """`kind` "none", "classifier-free" or "embedded" (the network reads the scale itself); `default` is the scale.

    `zero_without_negative`: where no negative prompt is given, its text outputs are zeros.
    """

    kind: str
    default: float
    zero_without_negative: bool = False


@dataclass(frozen=True)
class Manifest:
    """Everything a runtime has to know; `raw` is the JSON as it stands, for tools that rewrite it."""

    name: str
    backbone: str
    decoder: str
    encoder: str | None
    components: dict[str, Component]
    tokenizers: dict[str, TokenizerSpec]
    latents: LatentSpec
    guidance: Guidance
    schedules: dict[int, ScheduleTable]
    coefficients: dict[int, Coefficients]
    default_steps: int
    strength_rounds_up: bool
    files: tuple[BundleFile, ...]
    raw: dict[str, Any] = field(repr=False)


def place_of(path: Path) -> Path | Packed:
    """The bundle at `path`: a folder, or a packed one; BundleError for a file that is none."""
    return Packed(path) if path.is_file() else path


def read(place: Path | Packed) -> Manifest:
    """Parse `qsched.json` of a folder or packed bundle; raises BundleError with the reason if it is missing, foreign or
    malformed, or if a packed one holds files that it does not list."""
    path = f"{place}/{NAME}"
    if isinstance(place, Path) and not place.is_dir():
        raise BundleError(f"no bundle at {place}: the folder does not exist; `qsched-edge export` makes one")
    if isinstance(place, Path) and not (place / NAME).is_file():
        raise BundleError(f"{place} is not a bundle: it has no {NAME}; `qsched-edge export` makes one")
    raw = parse_json(read_limited(place, NAME, MANIFEST.bytes), MANIFEST, path)
    found = (raw.get("format"), raw.get("version")) if isinstance(raw, dict) else (None, None)
    if found not in [(FORMAT, version) for version in VERSIONS]:
        known = f"{FORMAT} {VERSIONS[0]} to {VERSIONS[-1]}"
        raise BundleError(f"{path} is {found}, this runtime reads {known}: use a matching runtime")
    try:
        check_schema(raw, schema(), schema())
        manifest = checked(parse(raw))
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is malformed ({type(error).__name__}: {error}): make the bundle again") from error
    if isinstance(place, Packed):
        check_strays(place, manifest)
    return manifest


def check_strays(packed: Packed, manifest: Manifest) -> None:
    strays = sorted(packed.entries.keys() - {NAME, *(f.path for f in manifest.files)})
    if strays:
        raise BundleError(f"{strays[0]!r} is in {packed} but not in {NAME}: pack the bundle again")


@cache
def schema() -> dict[str, Any]:
    """qsched.schema.json, which runtimes in other languages read too."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name(SCHEMA).read_text("utf-8"))
    return found


def parse(raw: dict[str, Any]) -> Manifest:
    """The manifest of a document that the schema has passed."""
    if raw["noise"]["algorithm"] != ALGORITHM:
        raise BundleError(f"noise algorithm {raw['noise']['algorithm']!r} is unknown: this runtime has {ALGORITHM!r}")
    components = {name: Component(name, c["file"], c["inputs"]) for name, c in raw["components"].items()}
    schedules = {int(n): table_of(s) for n, s in raw["schedules"].items()}
    coefficients = {int(n): Coefficients(s["c_x"], s["c_eps"], s.get("bias")) for n, s in raw["schedules"].items()}
    return Manifest(
        raw["name"], raw["backbone"], raw["decoder"], raw["encoder"], components,
        {name: TokenizerSpec(**t) for name, t in raw["tokenizers"].items()},
        LatentSpec(**raw["latents"]), Guidance(**raw["guidance"]),
        schedules, coefficients, int(raw["default_steps"]), bool(raw["strength_rounds_up"]),
        tuple(BundleFile(**f) for f in raw["files"]), raw,
    )  # fmt: skip


def table_of(stored: Mapping[str, Any]) -> ScheduleTable:
    """The table of a stored schedule; what else is stored is left aside."""
    shift = stored.get("shift")
    lines = tuple(ShiftLine(**line) for line in shift["lines"]) if shift else ()
    columns = {name: stored[name] for name in (*COLUMNS, "init_noise_sigma")}
    return ScheduleTable(**columns, shift=Shift(shift["mu"], lines) if shift else None)


def checked(manifest: Manifest) -> Manifest:
    """BundleError where parts of the manifest do not fit each other, which no schema says."""
    for check in (check_files, check_names, check_sources, check_latents, check_schedules):
        check(manifest)
    return manifest


def check_files(manifest: Manifest) -> None:
    for file in manifest.files:
        check_path(file.path)
    check_distinct([NAME, *(f.path for f in manifest.files)])
    used = [*(c.file for c in manifest.components.values()), *(t.file for t in manifest.tokenizers.values())]
    for name in used:
        check_path(name)
        if name not in {f.path for f in manifest.files}:
            raise BundleError(f"{name!r} is used but not listed with size and SHA-256: make the bundle again")


def check_names(manifest: Manifest) -> None:
    for role in ("backbone", "decoder", "encoder"):
        name = getattr(manifest, role)
        if name is not None and name not in manifest.components:
            raise BundleError(f"the {role} {name!r} is none of the components: make the bundle again")
    for name, tokenizer in manifest.tokenizers.items():
        if tokenizer.kind == "clip" and tokenizer.bos_id < 0:  # a unigram tokenizer has none: -1
            raise BundleError(f"{name} has the bos_id {tokenizer.bos_id}: make the bundle again")
    if manifest.default_steps not in manifest.schedules:
        raise BundleError(f"there is no schedule for the default of {manifest.default_steps} steps: make it again")


def check_sources(manifest: Manifest) -> None:
    """What an input reads exists: tokenizers, and outputs of components that stand before and read text."""
    outputs: set[str] = set()
    for component in manifest.components.values():
        sources = component.inputs.values()
        for source in sources:
            if isinstance(source, dict):
                check_source(source, manifest, outputs, component.name)
        if any("tokenizer" in source for source in sources if isinstance(source, dict)):
            outputs |= {f"{component.name}.{name}" for name in manifest.raw["components"][component.name]["outputs"]}


def check_source(source: dict[str, Any], manifest: Manifest, outputs: set[str], where: str) -> None:
    for kind in ("tokenizer", "attention_mask"):
        if kind in source and source[kind] not in manifest.tokenizers:
            raise BundleError(f"{where} reads the tokenizer {source[kind]!r}, which is not there")
    for name in source.get("outputs", ()):
        if name not in outputs:
            raise BundleError(f"{where} reads the source {name!r}, which no text encoder before it gives")
    if math.prod(source.get("zeros", (1,))) > MOST_ZEROS:
        raise BundleError(f"{where} reads zeros of shape {source['zeros']}: more than any network needs")


def check_latents(manifest: Manifest) -> None:
    spec = manifest.latents
    if spec.height * spec.width * spec.pixels_per_latent**2 > MOST_PIXELS:
        raise BundleError(f"latents of {spec.height} x {spec.width} are larger than any picture: make the bundle again")
    for side in (spec.height, spec.width, spec.multiple_of) if spec.patch else ():
        if side % spec.patch:
            raise BundleError(f"latents' side {side} is no multiple of the patch {spec.patch}: make the bundle again")


def check_schedules(manifest: Manifest) -> None:
    for n, table in manifest.schedules.items():
        if len(table) != n:
            raise BundleError(f"the schedule of {n} steps has {len(table)}: make the bundle again")
        stock = manifest.raw["schedules"][str(n)].get("stock", {})
        if any(len(stock.get(column, table.timesteps)) != n for column in COLUMNS):
            raise BundleError(f"the stock schedule of {n} steps has another length: make the bundle again")
        coefficients = manifest.coefficients[n]
        table.folded(coefficients)  # raises where they do not fit
        for name in ("c_x", "c_eps", "bias"):
            column = np.asarray(getattr(coefficients, name))
            if column.ndim == 2 and column.shape[1] not in (1, manifest.latents.channels):
                raise BundleError(f"{name} has {column.shape[1]} channels, the latents {manifest.latents.channels}")
