"""pack, unpack and sign: a bundle as one file, and back; who made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from qsched_edge.cli.options import OUTPUT, WHAT, Bundle, Force, Json, Quiet, option, show


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """What `qsched-edge pack` is given."""

    bundle: Bundle
    output: Annotated[
        Path | None, option("File to write (default: the bundle's name, .qsched).", OUTPUT, "-o", "--output")
    ] = None
    force: Force = False
    quiet: Quiet = False
    as_json: Json = False


def pack(given: PackOptions) -> None:
    """Write a bundle as one file, which `run` and Sampler.from_pretrained open as it is."""
    from qsched_edge.bundle.packing import SUFFIX
    from qsched_edge.bundle.packing import pack as write
    from qsched_edge.work.progress import bar

    target = given.output or given.bundle.with_name(f"{given.bundle.resolve().name}{SUFFIX}")
    with bar("packing", None, "B", given.quiet) as advance:
        write(given.bundle, target, given.force, advance)
    size = target.stat().st_size
    show({"packed": str(target), "bytes": size}, given.as_json, f"{target}: {size:,} bytes")


@dataclass(frozen=True, kw_only=True)
class UnpackOptions:
    """What `qsched-edge unpack` is given."""

    packed: Annotated[Path, typer.Argument(help="Packed bundle.", show_default=False)]
    output: Annotated[
        Path | None, option("Folder to write (default: the file's name without its suffix).", OUTPUT, "-o", "--output")
    ] = None
    force: Force = False
    quiet: Quiet = False
    as_json: Json = False


def unpack(given: UnpackOptions) -> None:
    """Write a packed bundle as a folder again, every file checked against its size and SHA-256."""
    from qsched_edge.bundle.packing import unpack as write
    from qsched_edge.errors import OutputExistsError
    from qsched_edge.work.progress import bar

    target = given.output or given.packed.with_suffix("")
    if target == given.packed:
        raise OutputExistsError(f"{given.packed} has no suffix to leave out: name a folder with -o")
    with bar("unpacking", None, "B", given.quiet) as advance:
        write(given.packed, target, given.force, advance)
    show({"bundle": str(target)}, given.as_json, str(target))


@dataclass(frozen=True, kw_only=True)
class SignOptions:
    """What `qsched-edge sign` is given."""

    bundle: Bundle
    key: Annotated[Path, option("PEM file of an elliptic curve's private key.", WHAT, "--key")]
    certificate: Annotated[Path | None, option("Its certificate, to be trusted by who issued it.", WHAT)] = None
    chain: Annotated[list[Path], option("Certificates above it; repeat for several.", WHAT)] = field(
        default_factory=list
    )
    output: Annotated[
        Path | None, option("Signature to write (default: the bundle's name, .sig).", OUTPUT, "-o", "--output")
    ] = None
    force: Force = False
    as_json: Json = False


def sign(given: SignOptions) -> None:
    """Sign a bundle's folder with a key, by OpenSSF's model-signing; nothing goes over a network."""
    from qsched_edge.bundle.signing import Signer, signature_of
    from qsched_edge.bundle.signing import sign as write

    target = given.output or signature_of(given.bundle)
    write(given.bundle, Signer(given.key, given.certificate, tuple(given.chain)), target, given.force)
    show({"signature": str(target)}, given.as_json, str(target))
