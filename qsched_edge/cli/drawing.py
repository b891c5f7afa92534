"""run and verify: what a bundle draws, and whether it is sound."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from qsched_edge.cli.options import (
    NO_PROVIDERS,
    OUTPUT,
    PICTURE,
    Bundle,
    DecoderTile,
    Device,
    Force,
    Json,
    Memory,
    Provider,
    Quiet,
    Threads,
    option,
    show,
)
from qsched_edge.errors import OutputExistsError, PromptsError, RequestError

if TYPE_CHECKING:
    import numpy as np
    from qsched_runtime import Sampler

LONGEST_NAME = 255 - len("..partial")  # bytes that file systems hold, less what a file is called until it is whole


def run(
    bundle: Bundle,
    prompt: Annotated[list[str], option("What to draw; repeat for several pictures.", PICTURE, "-p", "--prompt")],
    output: Annotated[
        Path, option("PNG, or JPEG or WebP with Pillow (several pictures: NAME-0.png, ...).", OUTPUT, "-o", "--output")
    ],
    seed: Annotated[
        int | None,
        option("Noise seed, as torch's CPU generator understands it (default: drawn, and printed).", PICTURE),
    ] = None,
    num_images: Annotated[int, option("Pictures of each prompt.", PICTURE)] = 1,
    steps: Annotated[int | None, option("Number of steps (default: the bundle's).", PICTURE)] = None,
    guidance_scale: Annotated[float | None, option("Guidance scale (default: the bundle's).", PICTURE)] = None,
    negative_prompt: Annotated[
        str | None, option("What to avoid, where the model is guided.", PICTURE, show_default=False)
    ] = None,
    height: Annotated[int | None, option("Pixels; beside --image, it is resized.", PICTURE)] = None,
    width: Annotated[int | None, option("Pixels; beside --image, it is resized.", PICTURE)] = None,
    image: Annotated[Path | None, option("Picture to start from, where the bundle has a VAE encoder.", PICTURE)] = None,
    strength: Annotated[float | None, option("With --image: 0 to 1, how far from it (default: 0.8).", PICTURE)] = None,
    device: Device = "cpu",
    provider: Provider = NO_PROVIDERS,
    memory: Memory = "auto",
    decoder_tile: DecoderTile = None,
    threads: Threads = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Draw pictures with the shipped runtime."""
    from qsched_runtime.output import numbered
    from qsched_runtime.request import MOST_PICTURES, integer

    for text in (*prompt, negative_prompt or ""):
        check_text(text)
    if strength is not None and image is None:
        raise RequestError(f"--strength {strength:g} is how far from a picture: give --image, or leave it out")
    names = numbered(output, len(prompt) * integer("num_images", num_images, 1, MOST_PICTURES))
    check_output(names, force)
    start = read_start(image, height, width) if image else None
    size = {} if image else {"height": height, "width": width}
    started = time.perf_counter()
    sampler = loaded(bundle, steps, image is not None, {"device": device, "providers": provider or None,
                     "memory": memory, "threads": threads, "decoder_tile": decoder_tile}, quiet)  # fmt: skip
    warn_of_cut_prompts(sampler, prompt)
    ready = time.perf_counter()
    asked = {"seed": seed, "num_inference_steps": steps, "guidance_scale": guidance_scale, "image": start,
             "negative_prompt": negative_prompt, "num_images_per_prompt": num_images, **size}  # fmt: skip
    if strength is not None:
        asked["strength"] = strength
    drawn = with_progress(sampler, prompt, asked, quiet)
    drawn.save(output)
    seconds = {"load": round(ready - started, 3), "draw": round(time.perf_counter() - ready, 3)}
    many = "1 picture" if len(names) == 1 else f"{len(names)} pictures"
    print(f"seed {drawn.seed}: {many} in {seconds['draw']:.2f} s, loaded in {seconds['load']:.2f} s", file=sys.stderr)
    record = {"pictures": list(map(str, names)), "seed": drawn.seed, "seconds": seconds, "device": device,
              "height": drawn.images.shape[1], "width": drawn.images.shape[2],
              "left_out": [sampler.left_out(text) for text in prompt]}  # fmt: skip
    show(record, as_json, "\n".join(map(str, names)))


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


def loaded(bundle: Path, steps: int | None, encodes: bool, place: dict[str, Any], quiet: bool) -> Sampler:
    """The sampler; what its manifest alone can refuse is refused before any network is loaded."""
    from qsched_runtime import Sampler
    from qsched_runtime import manifest as manifests

    from qsched_edge.work.progress import saying

    manifest = manifests.read(manifests.place_of(bundle))
    Sampler(manifest, {}, {}).schedule(steps)
    if encodes and not manifest.encoder:
        raise RequestError(f"--image: {bundle} has no VAE encoder; export it with --encoder")
    with saying(f"checking and loading {bundle}", quiet):
        return Sampler.from_pretrained(bundle, **place)


def warn_of_cut_prompts(sampler: Sampler, prompts: Iterable[str]) -> None:
    for text in prompts:
        for name, left in sampler.left_out(text).items():
            if left:
                start = text if len(text) <= 40 else f"{text[:37]}..."
                print(f"warning: {name} leaves out the last {left} tokens of the prompt {start!r}", file=sys.stderr)


def with_progress(sampler: Sampler, prompts: list[str], asked: dict[str, Any], quiet: bool) -> Any:
    from qsched_edge.work.progress import bar

    steps = len(sampler.schedule(asked["num_inference_steps"]).table)
    with bar("drawing", steps, "step", quiet or not sys.stderr.isatty()) as advance:
        return sampler(prompts, callback_on_step_end=lambda step: advance(1), **asked)


def verify(bundle: Bundle, quiet: Quiet = False, as_json: Json = False) -> None:
    """Check a bundle's hashes, schedules and self-test on this machine."""
    from qsched_edge.bundle.verify import verify as check
    from qsched_edge.bundle.write import bundle_bytes
    from qsched_edge.work.progress import saying

    with saying(f"checking {bundle}: hashes, schedules, self-test", quiet):
        manifest = check(bundle)
    record = {
        "bundle": str(bundle), "sound": True, "files": len(manifest.files), "bytes": bundle_bytes(manifest),
        "steps": sorted(manifest.schedules), "calibrated": sorted(map(int, manifest.raw["calibration"])),
    }  # fmt: skip
    text = f"{bundle}: {len(manifest.files)} files, {record['bytes']:,} bytes, all as the manifest says"
    show(record, as_json, text)


def check_text(prompt: str) -> None:
    """Python hands on what is no UTF-8 on the command line as lone surrogates, which no tokenizer reads."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise PromptsError(f"prompt {prompt!a} is not UTF-8 text (character {error.start})") from error
