"""qsched.json: parsed, checked, turned into frozen values. The only file of a bundle that a runtime must parse."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from qsched_runtime.errors import BundleError, RequestError
from qsched_runtime.noise import ALGORITHM
from qsched_runtime.request import MOST_PIXELS, integer
from qsched_runtime.schedule import COLUMNS, Coefficients, ScheduleTable

FORMAT, VERSION, BIAS_VERSION = "qsched-bundle", 1, 2  # 2: a schedule has a bias
NAME = "qsched.json"


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
    """`kind` "clip"; ids are padded with `pad_id` to `length`."""

    kind: str
    file: str
    length: int
    bos_id: int
    eos_id: int
    pad_id: int


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


def read(folder: Path) -> Manifest:
    """Parse `folder/qsched.json`; raises BundleError with the reason if it is missing, foreign or malformed."""
    path = folder / NAME
    if not folder.is_dir():
        raise BundleError(f"no bundle at {folder}: the folder does not exist; `qsched-edge export` makes one")
    if not path.is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {NAME}; `qsched-edge export` makes one")
    try:
        raw = json.loads(path.read_text("utf-8"))
        found = (raw.get("format"), raw.get("version"))
        if found not in ((FORMAT, VERSION), (FORMAT, BIAS_VERSION)):
            known = f"{FORMAT} {VERSION} and {BIAS_VERSION}"
            raise BundleError(f"{path} is {found}, this runtime reads {known}: use a matching runtime")
        return parse(raw)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path} is malformed ({type(error).__name__}: {error}): make the bundle again") from error


def parse(raw: dict[str, Any]) -> Manifest:
    if raw["noise"]["algorithm"] != ALGORITHM:
        raise BundleError(f"noise algorithm {raw['noise']['algorithm']!r} is unknown: this runtime has {ALGORITHM!r}")
    components = {name: Component(name, c["file"], c["inputs"]) for name, c in raw["components"].items()}
    schedules = {
        int(n): ScheduleTable(**{c: s[c] for c in (*COLUMNS, "init_noise_sigma")}) for n, s in raw["schedules"].items()
    }
    coefficients = {int(n): Coefficients(s["c_x"], s["c_eps"], s.get("bias")) for n, s in raw["schedules"].items()}
    for n, table in schedules.items():
        table.folded(coefficients[n])  # raises where they do not fit
    manifest = Manifest(
        raw["name"], raw["backbone"], raw["decoder"], raw["encoder"], components,
        {name: TokenizerSpec(**t) for name, t in raw["tokenizers"].items()},
        LatentSpec(**raw["latents"]), Guidance(**raw["guidance"]),
        schedules, coefficients, int(raw["default_steps"]), bool(raw["strength_rounds_up"]),
        tuple(BundleFile(**f) for f in raw["files"]), raw,
    )  # fmt: skip
    used = {c.file for c in components.values()} | {t.file for t in manifest.tokenizers.values()}
    for file in used - {f.path for f in manifest.files}:
        raise BundleError(f"{file!r} is used but not listed with size and SHA-256: make the bundle again")
    return manifest


def inside(folder: Path, relative: str) -> Path:
    """`folder / relative`, refused unless it is a plain file that lies inside the bundle by its own name."""
    pure = PurePosixPath(relative)
    if pure.is_absolute() or not pure.parts or ".." in pure.parts or "\\" in relative or ":" in relative:
        raise BundleError(f"path {relative!r} leaves the bundle: refused")
    path = folder
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(f"{relative!r} is a symbolic link: refused; a bundle holds plain files")
    return path


def check_file(folder: Path, file: BundleFile) -> None:
    """Raise BundleError unless the file has the size and SHA-256 that the manifest states."""
    path = inside(folder, file.path)
    if not path.is_file():
        raise BundleError(f"{file.path} is missing from {folder}: copy the bundle again")
    if path.stat().st_size != file.bytes:
        raise BundleError(f"{file.path} has {path.stat().st_size} bytes instead of {file.bytes}: copy the bundle again")
    if sha256(path) != file.sha256:
        raise BundleError(f"{file.path} does not have the SHA-256 {file.sha256[:12]}…: copy the bundle again")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(2**20):
            digest.update(block)
    return digest.hexdigest()
