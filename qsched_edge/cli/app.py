"""The command line: parse, call, print. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from qsched_edge.errors import MissingExtraError, PromptsError, QSchedError

app = typer.Typer(
    name="qsched-edge",
    help="Take few-step text-to-image models to the edge: export, quantize, calibrate, evaluate, run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Bundle = Annotated[Path, typer.Argument(help="Folder of a bundle.", show_default=False)]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where the result goes.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Provider = Annotated[list[str], typer.Option("--provider", help="onnxruntime provider, in order of preference.")]
Memory = Annotated[str, typer.Option(help="low: keep 4-bit convolutions packed; fast: unpack them once.")]
CPU = ["CPUExecutionProvider"]


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    if debug:
        os.environ["QSCHED_DEBUG"] = "1"


@app.command()
def models(as_json: Json = False) -> None:
    """List the recipes: name, licence, steps, source."""
    from qsched_edge.checkpoint.recipes import read_recipe, recipe_names

    recipes = [read_recipe(path) for path in recipe_names().values()]
    rows = [
        {
            "name": r.name,
            "title": r.title,
            "license": r.license,
            "steps": list(r.steps),
            "source": str(r.path(r.source)),
        }
        for r in recipes
    ]
    show(rows, as_json, "\n".join(f"{r['name']:20} {r['license']:14} {r['title']}" for r in rows))


@app.command()
def export(
    model: Annotated[str, typer.Option("-m", "--model", help="Recipe name, recipe file, diffusers folder or hub id.")],
    bits: Annotated[
        int | None, typer.Option(help="Bits per weight: 2, 3, 4, 8, 16 or 32 (default: the recipe's).")
    ] = None,
    output: Output = None,
    method: Annotated[
        str | None,
        typer.Option(help="Quantizer: rtn, mse, gptq, or smoothquant for W8A8 (default: the recipe's)."),
    ] = None,
    calib_prompts: Annotated[
        Path | None, typer.Option(help="Prompts that all but rtn observe the model with (default: the recipe's).")
    ] = None,
    calib_count: Annotated[int, typer.Option(help="How many of them to draw; 0: observe nothing.")] = 64,
    target_size: Annotated[
        str | None, typer.Option(help="Choose the width of each of the backbone's weights: bytes of all, such as 500M.")
    ] = None,
    target_ratio: Annotated[
        float | None, typer.Option(help="The same, as the bytes in FP16 over the bytes stored, such as 3.6.")
    ] = None,
    precision_map: Annotated[
        Path | None, typer.Option(help="Widths of single weights: a bundle's precision.toml.")
    ] = None,
    activation_bits: Annotated[int, typer.Option(help="Bits of what layers compute with: 8 or 16 (as is).")] = 16,
    encoder: Annotated[bool, typer.Option("--encoder", help="Bring the VAE encoder, to start from pictures.")] = False,
    decoder: Annotated[str, typer.Option(help="full, or tiny where the recipe names a tiny decoder.")] = "full",
    max_ram: Annotated[str | None, typer.Option(help="Most memory to take, such as 2G.", show_default=False)] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Capture, quantize and bundle a model; all Q-Sched coefficients are one."""
    from qsched_edge.checkpoint.recipes import read_layers, resolve
    from qsched_edge.precision import Scheme
    from qsched_edge.quantize.methods import method_named
    from qsched_edge.work.memory import parse_bytes

    # bad bits and methods are refused before anything is read
    Scheme(4 if bits is None else bits, activation_bits=activation_bits)
    method_named(method or "rtn")
    layers = read_layers(precision_map) if precision_map else None
    spec = resolve(model)
    if layers:
        spec = replace(spec, recipe=replace(spec.recipe, layers=layers))
    bits = spec.recipe.bits if bits is None else bits
    target = output or Path(f"{spec.recipe.name}-w{bits}{'' if activation_bits == 16 else f'a{activation_bits}'}")
    stage = load("qsched_edge.export.run", "export")
    settings = stage.ExportSettings(
        bits,
        method or spec.recipe.method,
        stage.Choices(encoder, decoder),
        stage.RamLimit(parse_bytes(max_ram) if max_ram else None),
        activation_bits,
        stage.Calibration(calib_prompts, calib_count),
        stage.target_of(parse_bytes(target_size) if target_size else None, target_ratio),
    )
    stage.export(spec, settings, target, force, quiet)
    from qsched_runtime import manifest

    from qsched_edge.bundle.write import bundle_bytes

    print(f"{target}: {bundle_bytes(manifest.read(target)):,} bytes")


@app.command()
def quantize(
    graph: Annotated[Path, typer.Argument(help="ONNX graph of opset 11 or newer.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Graph to write; large ones get a _data file.")],
    bits: Annotated[int, typer.Option(help="Bits per weight: 2, 3, 4, 8 or 16.")] = 4,
    group_size: Annotated[int, typer.Option(help="Weights that share a scale: 16 to 256, or 0 for a channel.")] = 64,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="Zero points in the middle of the range.")] = False,
    method: Annotated[str, typer.Option(help="Quantizer: rtn (round to nearest) or mse (searched scales).")] = "rtn",
    activation_bits: Annotated[int, typer.Option(help="Bits of what layers compute with: 8 or 16 (as is).")] = 16,
    inputs: Annotated[Path | None, typer.Option(help="Arrays by input name (.npz) to measure the error on.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of random inputs, where none are given.")] = 0,
    max_ram: Annotated[str | None, typer.Option(help="Most memory to take, such as 2G.", show_default=False)] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Quantize any ONNX graph, and print what was quantized, what was not and why, sizes and the output error."""
    from qsched_edge.precision import Scheme
    from qsched_edge.work.memory import RamLimit, parse_bytes

    scheme = Scheme(bits, group_size, symmetric, method, activation_bits)
    stage = load("qsched_edge.foreign.run", "quantize")
    ram = RamLimit(parse_bytes(max_ram) if max_ram else None)
    report = stage.quantize(graph, output, stage.QuantizeSettings(scheme, inputs, seed, ram), force, quiet)
    show(report.json(), as_json, report.text())


@app.command()
def calibrate(
    bundle: Bundle,
    prompts: Annotated[Path | None, typer.Option(help="Prompt file to fit on (default: the recipe's).")] = None,
    heldout: Annotated[Path | None, typer.Option(help="Prompt file that decides (default: the recipe's).")] = None,
    search: Annotated[
        list[str], typer.Option(help="auto, all, closed, grid, line, free, channel, gradient or blackbox; repeatable.")
    ] = ["auto"],  # noqa: B006 (typer reads it, nobody writes to it)
    loss: Annotated[
        str, typer.Option(help="jaq, text-image, quality or reference (full precision's latents).")
    ] = "jaq",
    k: Annotated[float, typer.Option(help="JAQ = TC + k IQ.")] = 2.0,
    guard: Annotated[
        bool, typer.Option(help="With --reference: ship nothing that moves the pictures away from full precision's.")
    ] = True,
    steps: Annotated[int | None, typer.Option(help="Step count to calibrate (default: the bundle's).")] = None,
    budget: Annotated[str, typer.Option(help="Most passes (20000) or time (90s, 5m) that one search takes.")] = "",
    start: Annotated[
        str, typer.Option(help="identity, or closed: free, gradient and blackbox start there.")
    ] = "identity",
    points: Annotated[int, typer.Option(help="Grid points per axis.")] = 7,
    iterations: Annotated[int, typer.Option(help="Gradient iterations.")] = 24,
    jacobian: Annotated[str, typer.Option(help="The network's: none, symmetric or forward.")] = "none",
    check_gradient: Annotated[bool, typer.Option(help="Compare the gradient with finite differences.")] = True,
    fit_prompts: Annotated[int, typer.Option(help="Prompts to fit on.")] = 32,
    heldout_prompts: Annotated[int, typer.Option(help="Held-out prompts that choose and decide; 8 must decide.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of all noise and choices, 0 to 99.")] = 0,
    text_image: Annotated[str, typer.Option(help="TC's metric: clip, hps (default: the recipe's).")] = "",
    quality: Annotated[str, typer.Option(help="IQ's metric: clip-iqa, pyiqa:NAME (default: the recipe's).")] = "",
    reference: Annotated[
        Path | None,
        typer.Option(help="32-bit bundle of the same weights, to compare with.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, for network and scorer alike.")] = "cpu",
    engine: Annotated[str, typer.Option(help="local, or ray to use several processes or machines.")] = "local",
    ray_address: Annotated[str, typer.Option(help="Ray cluster to join (default: one on this machine).")] = "",
    workers: Annotated[int, typer.Option(help="Ray workers.")] = 2,
    memory: Memory = "low",
    threads: Annotated[int | None, typer.Option(help="onnxruntime's threads (default: its own choice).")] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Recipe or folder the bundle came from.")] = None,
    provider: Provider = CPU,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Learn c_x and c_eps on the quantized graph and write them into the bundle; identity always competes."""
    stage = load("qsched_edge.calibrate.run", "calibrate")
    settings = stage.Settings(
        tuple(search), loss, k, guard, steps, budget, start, points, iterations, jacobian, check_gradient, fit_prompts,
        heldout_prompts, seed, text_image, quality, reference, device, tuple(provider), engine, ray_address, workers,
        memory,
        threads,
    )  # fmt: skip
    result = stage.calibrate(bundle, settings, prompts, heldout, model, quiet)
    show(result.record, as_json, result.table())


@app.command()
def evaluate(
    bundle: Bundle,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for report.json and report.html.")],
    prompts: Annotated[Path | None, typer.Option(help="Held-out prompts (default: the recipe's).")] = None,
    count: Annotated[int, typer.Option(help="Number of prompts.")] = 64,
    seeds: Annotated[int, typer.Option(help="Seeds per prompt.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Step count to evaluate (default: the bundle's).")] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Recipe or folder the bundle came from.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="32-bit bundle of the same weights (default: NAME-w32 beside the bundle).")
    ] = None,
    provider: Provider = CPU,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The four cells {full precision, quantized} x {c = 1, calibrated}, with paired intervals and pictures."""
    stage = load("qsched_edge.evaluate.run", "evaluate")
    settings = stage.Settings(count, seeds, tuple(provider), steps)
    report = stage.evaluate(bundle, output, settings, prompts, model, force, quiet, reference)
    show(report, as_json, stage.text_table(report) + f"\n{output / 'report.html'}")


@app.command()
def ablate(
    bundles: Annotated[list[Path], typer.Argument(help="Folders of bundles, such as W4A16 and W3A16 of one model.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for report.json and report.html.")],
    points: Annotated[int, typer.Option(help="Grid points per axis; the grid's passes are every search's budget.")] = 7,
    budget: Annotated[str, typer.Option(help="Another budget for all but the grid: passes (20000) or time (5m).")] = "",
    iterations: Annotated[int, typer.Option(help="Gradient iterations.")] = 24,
    fit_prompts: Annotated[int, typer.Option(help="Prompts to fit on.")] = 32,
    heldout_prompts: Annotated[int, typer.Option(help="Held-out prompts that measure.")] = 64,
    rows: Annotated[
        list[str], typer.Option("--rows", help="Groups of rows: searches, losses, columns, prompts (default: all).")
    ] = [],  # noqa: B006
    judge_prompts: Annotated[int, typer.Option(help="Held-out prompts for the second judge; 0 asks none.")] = 64,
    judge_seeds: Annotated[int, typer.Option(help="Noise seeds for each of them.")] = 2,
    k: Annotated[float, typer.Option(help="JAQ = TC + k IQ.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Seed of all noise and choices, 0 to 99.")] = 0,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Recipe or folder the bundles came from.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="32-bit bundle of the same weights (default: NAME-w32 beside the bundle).")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, for network and scorer alike.")] = "cpu",
    memory: Memory = "low",
    threads: Annotated[int | None, typer.Option(help="onnxruntime's threads (default: its own choice).")] = None,
    force: Force = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """What each search, loss, column and number of prompts is worth: held-out gains, curves and pictures."""
    calibration = load("qsched_edge.calibrate.settings", "calibrate")
    stage = load("qsched_edge.ablate.run", "evaluate")
    settings = calibration.Settings(
        points=points, budget=budget, iterations=iterations, fit_prompts=fit_prompts, heldout_prompts=heldout_prompts,
        k=k, seed=seed, reference=reference, device=device, memory=memory, threads=threads,
    )  # fmt: skip
    judging = stage.Judging(judge_prompts, judge_seeds)
    report = stage.ablate(bundles, output, settings, judging, rows or list(stage.GROUPS), model, force, quiet)
    show(report, as_json, stage.text_table(report) + f"\n{output / 'report.html'}")


@app.command()
def run(
    bundle: Bundle,
    prompt: Annotated[list[str], typer.Option("-p", "--prompt", help="What to draw; repeat for several pictures.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG file (several prompts: NAME-0.png, ...).")],
    seed: Annotated[int, typer.Option(help="Noise seed, as torch's CPU generator understands it.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Number of steps (default: the bundle's).")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance scale (default: the bundle's).")] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="What to avoid, where the model is guided.", show_default=False)
    ] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
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


@app.command()
def verify(bundle: Bundle) -> None:
    """Check a bundle's hashes, schedules and self-test on this machine."""
    from qsched_edge.bundle.write import bundle_bytes
    from qsched_edge.bundle.write import verify as check

    manifest = check(bundle)
    print(f"{bundle}: {len(manifest.files)} files, {bundle_bytes(manifest):,} bytes, all as the manifest says")


@app.command()
def inspect(
    target: Annotated[Path, typer.Argument(help="ONNX graph or folder of a bundle.", show_default=False)],
    as_json: Json = False,
) -> None:
    """List a graph's or a bundle's weights: kind, shape, bits, bytes, and their shares of the whole."""
    result = load("qsched_edge.foreign.inspection", "quantize").inspect(target)
    show(result.json(), as_json, result.text())


def check_text(prompt: str) -> None:
    """Python hands on what is no UTF-8 on the command line as lone surrogates, which no tokenizer reads."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise PromptsError(f"prompt {prompt!a} is not UTF-8 text (character {error.start})") from error


def load(module: str, extra: str) -> Any:
    """Import a stage; a package its extra would bring is named with the command that brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f'this command needs {error.name}: pip install "qsched-edge[{extra}]"') from error


def show(value: Any, as_json: bool, text: str) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) if as_json else text)


class Interrupted(BaseException):
    """Ctrl-C, as an exception that no library in between turns into something else."""


def interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise Interrupted


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def text_of(error: QSchedError | OSError) -> str:
    """What failed, where, and what to do."""
    if isinstance(error, QSchedError) or not error.strerror:
        return str(error)
    where = f": {error.filename}" if error.filename else ""
    advice = ": make room, the same command goes on from here" if error.errno in NO_ROOM else ""
    return error.strerror + where + advice


def run_app() -> None:
    """Run the command: errors are one line on stderr and exit code 1, usage errors 2, Ctrl-C 130."""
    signal.signal(signal.SIGINT, interrupt)
    try:
        app()
    except Interrupted:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    except (QSchedError, OSError) as error:
        if os.environ.get("QSCHED_DEBUG"):
            raise
        print(f"error: {' '.join(text_of(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
