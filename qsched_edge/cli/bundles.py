"""run, verify: how a bundle is drawn with and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from qsched_edge.cli.options import CPU, OUTPUT, PICTURE, Bundle, Force, Memory, Provider, option
from qsched_edge.errors import PromptsError


def run(
    bundle: Bundle,
    prompt: Annotated[list[str], option("What to draw; repeat for several pictures.", PICTURE, "-p", "--prompt")],
    output: Annotated[Path, option("PNG file (several prompts: NAME-0.png, ...).", OUTPUT, "-o", "--output")],
    seed: Annotated[int, option("Noise seed, as torch's CPU generator understands it.", PICTURE)] = 0,
    steps: Annotated[int | None, option("Number of steps (default: the bundle's).", PICTURE)] = None,
    guidance_scale: Annotated[float | None, option("Guidance scale (default: the bundle's).", PICTURE)] = None,
    negative_prompt: Annotated[
        str | None, option("What to avoid, where the model is guided.", PICTURE, show_default=False)
    ] = None,
    height: Annotated[int | None, option("Pixels.", PICTURE)] = None,
    width: Annotated[int | None, option("Pixels.", PICTURE)] = None,
    memory: Memory = "low",
    provider: Provider = CPU,
    force: Force = False,
) -> None:
    """Draw a picture with the shipped runtime."""
    from qsched_runtime import Sampler, png_bytes

    from qsched_edge.work.staging import refuse_existing, write_bytes

    names = [output] if len(prompt) == 1 else [output.with_stem(f"{output.stem}-{i}") for i in range(len(prompt))]
    for name in names:
        refuse_existing(name, force)
    for text in (*prompt, negative_prompt or ""):
        check_text(text)
    sampler = Sampler.from_pretrained(bundle, providers=provider, memory=memory)
    drawn = sampler(
        prompt,
        seed=seed,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        height=height,
        width=width,
    )
    for name, image in zip(names, drawn.images, strict=True):
        write_bytes(name, png_bytes(image))
        print(name)


def verify(bundle: Bundle) -> None:
    """Check a bundle's hashes, schedules and self-test on this machine."""
    from qsched_edge.bundle.verify import verify as check
    from qsched_edge.bundle.write import bundle_bytes

    manifest = check(bundle)
    print(f"{bundle}: {len(manifest.files)} files, {bundle_bytes(manifest):,} bytes, all as the manifest says")


def check_text(prompt: str) -> None:
    """Python hands on what is no UTF-8 on the command line as lone surrogates, which no tokenizer reads."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise PromptsError(f"prompt {prompt!a} is not UTF-8 text (character {error.start})") from error
