"""run and verify: what a bundle draws, and whether it is sound."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from qsched_edge.cli.options import (
    OUTPUT,
    PICTURE,
    WHAT,
    Bundle,
    Force,
    Json,
    Quiet,
    RuntimePlace,
    needing,
    option,
    show,
)
from qsched_edge.errors import OutputExistsError, PromptsError, RequestError

if TYPE_CHECKING:
    import numpy as np
    from qsched_runtime import Output, Sampler

LONGEST_NAME = 255 - len("..partial")  # bytes that file systems hold, less what a file is called until it is whole


@dataclass(frozen=True, kw_only=True)
class RunOptions(RuntimePlace):
    """What `qsched-edge run` is given."""

    bundle: Bundle
    prompt: Annotated[list[str], option("What to draw; repeat for several pictures.", PICTURE, "-p", "--prompt")]
    output: Annotated[
        Path, option("PNG, or JPEG or WebP with Pillow (several pictures: NAME-0.png, ...).", OUTPUT, "-o", "--output")
    ]
    seed: Annotated[
        int | None,
        option("Noise seed, as torch's CPU generator understands it (default: drawn, and printed).", PICTURE),
    ] = None
    num_images: Annotated[int, option("Pictures of each prompt.", PICTURE)] = 1
    steps: Annotated[int | None, option("Number of steps (default: the bundle's).", PICTURE)] = None
    guidance_scale: Annotated[float | None, option("Guidance scale (default: the bundle's).", PICTURE)] = None
    negative_prompt: Annotated[
        str | None, option("What to avoid, where the model is guided.", PICTURE, show_default=False)
    ] = None
    height: Annotated[int | None, option("Pixels; beside --image, it is resized.", PICTURE)] = None
    width: Annotated[int | None, option("Pixels; beside --image, it is resized.", PICTURE)] = None
    image: Annotated[Path | None, option("Picture to start from, where the bundle has a VAE encoder.", PICTURE)] = None
    strength: Annotated[float | None, option("With --image: 0 to 1, how far from it (default: 0.8).", PICTURE)] = None
    force: Force = False
    quiet: Quiet = False
    as_json: Json = False


def run(given: RunOptions) -> None:
    """Draw pictures with the shipped runtime."""
    names = checked_names(given)
    start = read_start(given.image, given.height, given.width) if given.image else None
    started = time.perf_counter()
    sampler = loaded(given)
    warn_of_cut_prompts(sampler, given.prompt)
    ready = time.perf_counter()
    drawn = with_progress(sampler, given, start)
    drawn.save(given.output)
    seconds = {"load": round(ready - started, 3), "draw": round(time.perf_counter() - ready, 3)}
    many = "1 picture" if len(names) == 1 else f"{len(names)} pictures"
    print(f"seed {drawn.seed}: {many} in {seconds['draw']:.2f} s, loaded in {seconds['load']:.2f} s", file=sys.stderr)
    record = {"pictures": list(map(str, names)), "seed": drawn.seed, "seconds": seconds, "device": given.device,
              "height": drawn.images.shape[1], "width": drawn.images.shape[2],
              "left_out": [sampler.left_out(text) for text in given.prompt]}  # fmt: skip
    show(record, given.as_json, "\n".join(map(str, names)))


def checked_names(given: RunOptions) -> list[Path]:
    """The files to write; all that can be refused before the model is loaded, is refused here."""
    from qsched_runtime.output import numbered
    from qsched_runtime.request import MOST_PICTURES, integer

    for text in (*given.prompt, given.negative_prompt or ""):
        check_text(text)
    if given.strength is not None and given.image is None:
        raise RequestError(f"--strength {given.strength:g} is how far from a picture: give --image, or leave it out")
    many = integer("num_images", given.num_images, 1, MOST_PICTURES)
    names = numbered(given.output, len(given.prompt) * many)
    check_output(names, given.force)
    return names


def check_output(names: Sequence[Path], force: bool) -> None:
    """All that can be said of the pictures' names before the model is loaded."""
    from qsched_runtime.image import check_suffix

    from qsched_edge.work.staging import refuse_existing

    folder = names[0].parent
    check_suffix(names[0])
    if not folder.is_dir():
        raise OutputExistsError(f"the folder {folder} does not exist: make it, or choose another output")
    if not os.access(folder, os.W_OK):
        raise OutputExistsError(f"the folder {folder} cannot be written to: choose another output")
    for name in names:
        if len(os.fsencode(name.name)) > LONGEST_NAME:
            raise OutputExistsError(f"the name {name.name[:40]}... is too long: use {LONGEST_NAME} bytes at most")
        if name.is_dir():
            raise OutputExistsError(f"{name} is a folder: name a picture in it, such as {name / 'picture.png'}")
        refuse_existing(name, force)


def read_start(path: Path, height: int | None, width: int | None) -> np.ndarray:
    """The picture to start from, uint8 [H, W, 3], resized where a height or a width is asked for."""
    from qsched_runtime.image import read_image, resized

    image = read_image(path)
    return resized(image, height or image.shape[0], width or image.shape[1]) if height or width else image


def loaded(given: RunOptions) -> Sampler:
    """The sampler; what its manifest alone can refuse is refused before any network is loaded."""
    from qsched_runtime import Sampler
    from qsched_runtime import manifest as manifests

    from qsched_edge.work.progress import saying

    manifest = manifests.read(manifests.place_of(given.bundle))
    Sampler(manifest, {}, {}).schedule(given.steps)
    if given.image is not None and not manifest.encoder:
        raise RequestError(f"--image: {given.bundle} has no VAE encoder; export it with --encoder")
    with saying(f"checking and loading {given.bundle}", given.quiet):
        return given.sampler(given.bundle)


def warn_of_cut_prompts(sampler: Sampler, prompts: Iterable[str]) -> None:
    for text in prompts:
        for name, left in sampler.left_out(text).items():
            if left:
                start = text if len(text) <= 40 else f"{text[:37]}..."
                print(f"warning: {name} leaves out the last {left} tokens of the prompt {start!r}", file=sys.stderr)


def with_progress(sampler: Sampler, given: RunOptions, start: np.ndarray | None) -> Output:
    """Draw; a picture to start from has its own size."""
    from qsched_edge.work.progress import bar

    height, width = (None, None) if start is not None else (given.height, given.width)
    far: dict[str, Any] = {} if given.strength is None else {"strength": given.strength}
    steps = len(sampler.schedule(given.steps).table)
    with bar("drawing", steps, "step", given.quiet or not sys.stderr.isatty()) as advance:
        return sampler(
            given.prompt, seed=given.seed, num_inference_steps=given.steps, guidance_scale=given.guidance_scale,
            negative_prompt=given.negative_prompt, num_images_per_prompt=given.num_images, height=height, width=width,
            image=start, callback_on_step_end=lambda step: advance(1), **far,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What `qsched-edge verify` is given."""

    bundle: Bundle
    identity: Annotated[
        Path | None, option("Who must have signed it: a PEM file with a public key or trusted certificates.", WHAT)
    ] = None
    signature: Annotated[Path | None, option("Signature (default: the bundle's name, .sig).", WHAT)] = None
    quiet: Quiet = False
    as_json: Json = False


def verify(given: VerifyOptions) -> None:
    """Check a bundle's hashes, schedules and self-test on this machine, and who signed it."""
    from qsched_edge.bundle.verify import verify as check
    from qsched_edge.bundle.write import bundle_bytes
    from qsched_edge.work.progress import saying

    bundle = given.bundle
    signed = check_signature(given)
    with saying(f"checking {bundle}: hashes, schedules, self-test", given.quiet):
        manifest = check(bundle)
    record = {
        "bundle": str(bundle), "sound": True, "files": len(manifest.files), "bytes": bundle_bytes(manifest),
        "steps": sorted(manifest.schedules), "calibrated": sorted(map(int, manifest.raw["calibration"])),
        "identity": str(given.identity) if given.identity else None,
    }  # fmt: skip
    text = f"{bundle}: {len(manifest.files)} files, {record['bytes']:,} bytes, all as the manifest says{signed}"
    show(record, given.as_json, text)


def check_signature(given: VerifyOptions) -> str:
    """What to say of it; an error unless the bundle is signed as it was asked for."""
    if given.identity is None:
        if given.signature is not None:
            raise RequestError("--signature says nothing without --identity: name whom you trust")
        return ""
    from qsched_edge.bundle.signing import check_identity, signature_of

    with needing("sign"):
        check_identity(given.bundle, given.identity, given.signature or signature_of(given.bundle))
    return f", signed by {given.identity}"


def check_text(prompt: str) -> None:
    """Python hands on what is no UTF-8 on the command line as lone surrogates, which no tokenizer reads."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise PromptsError(f"prompt {prompt!a} is not UTF-8 text (character {error.start})") from error
