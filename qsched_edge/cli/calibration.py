"""calibrate: learn coefficients on a quantized bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from qsched_edge.calibrate.place import Place
from qsched_edge.calibrate.registries import ACCEPTS, COLUMNS, ENGINES, JACOBIANS, PROVIDERS, SEARCHES, STARTS
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.cli.options import (
    CPU,
    DECIDING,
    PLACE,
    SCORING,
    SEARCHING,
    WHAT,
    Bundle,
    Json,
    Memory,
    Model,
    Offline,
    Provider,
    Quiet,
    Threads,
    needing,
    one_of,
    option,
    show,
)
from qsched_edge.jaq.terms import COMBINE, DISTRIBUTION, ENCODERS, losses

DEFAULT = CalibrationSettings()
SEARCH, COLUMN, FIT = list(DEFAULT.search), list(DEFAULT.columns), list(DEFAULT.fit)


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """What `qsched-edge calibrate` is given: the settings of a calibration, one by one, and where it goes."""

    bundle: Bundle
    prompts: Annotated[Path | None, option("Prompt file to fit on (default: the recipe's).", WHAT)] = None
    heldout: Annotated[Path | None, option("Prompt file that decides (default: the recipe's).", WHAT)] = None
    model: Model = None
    reference: Annotated[
        Path | None,
        option(
            "32-bit bundle of the same weights, to compare with (default: the one beside, exported if need be).", WHAT
        ),
    ] = DEFAULT.reference
    search: Annotated[list[str], one_of((*SEARCHES, "auto", "all"), "Repeat for several.", SEARCHING)] = field(
        default_factory=SEARCH.copy
    )
    columns: Annotated[
        list[str],
        one_of(COLUMNS, "What auto moves, one after the other; c is c_x and c_eps. Repeat for several.", SEARCHING),
    ] = field(default_factory=COLUMN.copy)
    steps: Annotated[int | None, option("Step count to calibrate (default: the bundle's).", SEARCHING)] = DEFAULT.steps
    budget: Annotated[str, option("Most passes (20000) or time (90s, 5m) that one search takes.", SEARCHING)] = (
        DEFAULT.budget
    )
    start: Annotated[str, one_of(STARTS, "Where noise, free, gradient and blackbox begin.", SEARCHING)] = DEFAULT.start
    points: Annotated[int, option("Grid points per axis.", SEARCHING)] = DEFAULT.points
    iterations: Annotated[int, option("Gradient iterations.", SEARCHING)] = DEFAULT.iterations
    jacobian: Annotated[str, one_of(JACOBIANS, "What stands for the network's.", SEARCHING)] = DEFAULT.jacobian
    check_gradient: Annotated[bool, option("Compare the gradient with finite differences.", SEARCHING)] = (
        DEFAULT.check_gradient
    )
    seed: Annotated[int, option("Seed of all noise and choices, 0 to 99.", SEARCHING)] = DEFAULT.seed
    loss: Annotated[
        str | None,
        one_of(
            (*losses(), DISTRIBUTION),
            "reference: nearness to full precision's latents; distribution: nearness of all pictures to reference "
            "pictures (default: the recipe's, else jaq).",
            SCORING,
        ),
    ] = None
    k: Annotated[float, option("JAQ = TC + k IQ.", SCORING)] = DEFAULT.k
    fit: Annotated[
        list[str],
        option(
            f"Encoder of the loss distribution: {', '.join(ENCODERS)}, or KIND:MODEL. Repeat for several (default: the "
            "recipe's, else clip and patches).",
            SCORING,
        ),
    ] = field(default_factory=FIT.copy)
    references: Annotated[
        Path | None, option("Folder of reference pictures for that loss (default: the recipe's).", SCORING)
    ] = DEFAULT.references
    combine: Annotated[
        str, one_of(COMBINE, "The encoders' gains: their sum, or that of the encoder that gains least.", SCORING)
    ] = DEFAULT.combine
    proximity: Annotated[
        float, option("Weight of a penalty for the distance from the stock schedule, in any loss.", SCORING)
    ] = DEFAULT.proximity
    scorer: Annotated[
        str,
        option("CLIP model of both terms: folder or hub id (default: the recipe's, else LAION's ViT-B-32).", SCORING),
    ] = DEFAULT.scorer
    text_image: Annotated[
        str, option("TC: clip, hps, METRIC:MODEL or a CLIP model (default: the recipe's or family's).", SCORING)
    ] = DEFAULT.text_image
    quality: Annotated[
        str, option("IQ: clip-iqa, hps, pyiqa:NAME, METRIC:MODEL or a CLIP model (default as above).", SCORING)
    ] = DEFAULT.quality
    fit_prompts: Annotated[int, option("Prompts to fit on.", SCORING)] = DEFAULT.fit_prompts
    heldout_prompts: Annotated[
        int, option("Held-out prompts, at most, that choose and decide; 8 must decide.", DECIDING)
    ] = DEFAULT.heldout_prompts
    accept: Annotated[
        str, one_of(ACCEPTS, "What ships: what the judges of the gate let through, or any gain in the loss.", DECIDING)
    ] = DEFAULT.accept
    device: Annotated[str, one_of(PROVIDERS, "For network and scorer alike.", PLACE)] = DEFAULT.place.device
    provider: Provider = field(default_factory=CPU.copy)
    offline: Offline = DEFAULT.offline
    memory: Memory = DEFAULT.place.memory
    threads: Threads = DEFAULT.place.threads
    engine: Annotated[str, one_of(ENGINES, "ray uses several processes or machines.", PLACE)] = DEFAULT.engine
    ray_address: Annotated[str, option("Ray cluster to join (default: one on this machine).", PLACE)] = (
        DEFAULT.ray_address
    )
    workers: Annotated[int, option("Ray workers.", PLACE)] = DEFAULT.workers
    quiet: Quiet = False
    as_json: Json = False

    def settings(self) -> CalibrationSettings:
        return CalibrationSettings(
            search=tuple(self.search),
            columns=tuple(self.columns),
            loss=self.loss or "",
            k=self.k,
            fit=tuple(self.fit),
            references=self.references,
            combine=self.combine,
            proximity=self.proximity,
            accept=self.accept,
            steps=self.steps,
            budget=self.budget,
            start=self.start,
            points=self.points,
            iterations=self.iterations,
            jacobian=self.jacobian,
            check_gradient=self.check_gradient,
            fit_prompts=self.fit_prompts,
            heldout_prompts=self.heldout_prompts,
            seed=self.seed,
            scorer=self.scorer,
            text_image=self.text_image,
            quality=self.quality,
            offline=self.offline,
            reference=self.reference,
            place=Place(device=self.device, providers=tuple(self.provider), memory=self.memory, threads=self.threads),
            engine=self.engine,
            ray_address=self.ray_address,
            workers=self.workers,
        )


def calibrate(given: CalibrateOptions) -> None:
    """Learn a better schedule on the quantized graph and write it into the bundle; the stock one always competes."""
    settings = given.settings()
    with needing("calibrate"):
        from qsched_edge.calibrate.run import calibrate as run_calibration
    result = run_calibration(given.bundle, settings, given.prompts, given.heldout, given.model, given.quiet)
    show(result.record, given.as_json, result.table())
