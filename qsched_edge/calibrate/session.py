"""An opened bundle with everything that searches and verdicts need; ablations use it too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from qsched_runtime import ScheduleTable
from qsched_runtime import manifest as manifests

from qsched_edge.bundle import write as bundles
from qsched_edge.bundle.card import versions
from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.bundle.opened import OpenedBundle, open_bundle
from qsched_edge.calibrate.budget import Budget
from qsched_edge.calibrate.draws import Draws
from qsched_edge.calibrate.engines import Cluster, Engine
from qsched_edge.calibrate.inputs import (
    draws_of,
    encoders_of,
    found_terms,
    judge_identity,
    prompt_sets,
    with_loss,
)
from qsched_edge.calibrate.jobs import Setup
from qsched_edge.calibrate.looks import GateJudges
from qsched_edge.calibrate.pictures import Pictures
from qsched_edge.calibrate.reference import check_reference, uncalibrated_at
from qsched_edge.calibrate.registries import AUTO, ENGINES, GUARDED
from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import ModelSpec, read_json
from qsched_edge.checkpoint.timesteps import probe_at
from qsched_edge.jaq.distribution import AnyLoss, SetLoss
from qsched_edge.jaq.encoders import files_of
from qsched_edge.jaq.loss import Loss, Scores, weights_of
from qsched_edge.jaq.panel import Panel, check_apart, names_of
from qsched_edge.jaq.scored import term_files
from qsched_edge.lookup import lookup
from qsched_edge.pipelines import layout_of
from qsched_edge.pipelines.parts import autoencoder_of
from qsched_edge.prompts import PromptSet
from qsched_edge.work.journal import Journal

PAIRED = "paired"  # the judge that sees nothing but nearness to full precision
SCHEDULER = "scheduler/scheduler_config.json"  # of a bundle
Advance = Callable[[int], None]
SEARCH_OPTIONS = (
    "search",
    "budget",
    "start",
    "points",
    "iterations",
    "jacobian",
    "check_gradient",
    "columns",
    "loss",
    "k",
    "accept",
)  # what is asked, not the answers
PLACE_OPTIONS = ("engine", "ray_address", "workers")  # they change no answer either


@dataclass(frozen=True)
class Session:
    """An opened bundle with everything that searches and verdicts need; ablations use it too."""

    settings: CalibrationSettings
    bundle: OpenedBundle
    spec: ModelSpec
    setup: Setup
    sets: Mapping[str, Draws]
    prompts: tuple[PromptSet, PromptSet]
    engine: Engine
    journal: Journal
    gate: Panel
    identity: Scores  # raw terms of the fitting pictures at c = 1
    references: Mapping[str, np.ndarray]  # their features by encoder, for a loss over sets

    @property
    def stock(self) -> LearnedSchedule:
        return self.setup.stock

    @property
    def steps(self) -> int:
        return len(self.stock)

    def retimed(self, timesteps: np.ndarray) -> ScheduleTable:
        """The stock scheduler's table at other timesteps, as the network is shown them."""
        sampling = layout_of(self.spec, self.bundle.provenance.choices).sampling
        own = [t / sampling.timestep_scale for t in timesteps]
        return probe_at(read_json(self.setup.bundle / SCHEDULER), own, sampling)

    @property
    def searches(self) -> tuple[str, ...]:
        """What is run, in order: other timesteps are tried only where more decides than nearness to full precision."""
        return self.settings.searches(AUTO if self.decided else GUARDED)

    @property
    def decided(self) -> bool:
        """Is there a judge of the gate beside nearness to full precision? A loss that decides alone asks none."""
        judges = names_of(self.spec.recipe, "gate") if self.settings.accept == "loss" else self.gate.judges
        return bool(set(judges) - {PAIRED})

    def pictures(self, name: str) -> Pictures:
        """Of "fit", "heldout", or that one's halves "choosing" and "deciding"."""
        return Pictures(self.engine, self.journal, self.sets[name])

    def loss(self, name: str) -> Loss:
        """Of single pictures."""
        return Loss.against(self.identity, weights_of(name, self.settings.k))

    @property
    def own_loss(self) -> AnyLoss:
        """The one that the settings name."""
        if self.settings.over_sets:
            return SetLoss.against(self.identity, self.references, self.settings.combine)
        return self.loss(self.settings.loss)

    def problem(self, loss: AnyLoss, advance: Advance, count: int | None = None) -> Problem:
        """A fresh search's, from c = 1 on the fitting prompts, or on the first `count` of them."""
        draws = replace(self.sets["fit"], prompts=self.sets["fit"].prompts[:count])
        return Problem(
            Pictures(self.engine, self.journal, draws), loss, self.stock, self.bundle.manifest.latents.shape(),
            Budget.parse(self.settings.budget), np.random.default_rng(self.settings.seed), self.stock,
            prediction_of(self.setup.bundle), self.retimed, self.settings.tuning, advance,
            self.settings.proximity,
        )  # fmt: skip


def open_session(
    bundle: OpenedBundle, settings: CalibrationSettings, prompts: Path | None, heldout: Path | None, model: str | None,
    journal: Path, compare: bool = False,
) -> Session:  # fmt: skip
    """Read and check all inputs, start the engine, draw the fitting pictures at c = 1; `compare` them with full
    precision's even if the loss does not ask for it."""
    spec = bundle.model(model)
    settings = with_loss(settings, spec.recipe)
    sets = prompt_sets(spec.recipe, prompts, heldout)
    draws, setup = draws_of(settings, *sets), setup_of(bundle, spec, settings, compare)
    asked = () if settings.accept == "loss" else names_of(spec.recipe, "gate")
    judges = GateJudges(asked, spec.recipe, draws["heldout"].prompts)
    setup, gate = replace(setup, gate=judges), judges.panel(settings.place.device)
    encoders = setup.fit.made() if setup.fit else {}
    fitted = term_files(setup.terms) | files_of(encoders.values())
    check_apart({"what is fitted to": fitted, "what decides": gate.files})
    values = {n: v for n, v in settings.json().items() if n not in (*SEARCH_OPTIONS, *PLACE_OPTIONS)}
    stamp = {
        "settings": values, "bundle": bundle.uncalibrated(), "prompts": [s.sha256 for s in sets],
        "compare": setup.compare, "judge": judge_identity(setup.terms), "autoencoder": bundles.list_files(setup.vae),
        "gate": [[name, manifests.sha256(Path(name))] for name in sorted(gate.files) if Path(name).is_file()],
        "fit": setup.fit.identity(encoders) if setup.fit else None,
        "reference": uncalibrated_at(settings.reference), "model": str(spec.folder), "versions": versions(),
    }  # fmt: skip
    engine: Engine = lookup(ENGINES[settings.engine])(setup, Cluster(settings.ray_address, settings.workers))
    references = setup.fit.of_references(encoders, side_of(bundle)) if setup.fit else {}
    session = Session(
        settings, bundle, spec, setup, draws, sets, engine, Journal(journal, stamp), gate, Scores({}), references
    )
    ((identity, _),) = session.pictures("fit").scores([setup.stock])
    return replace(session, identity=identity)


def setup_of(bundle: OpenedBundle, spec: ModelSpec, settings: CalibrationSettings, compare: bool) -> Setup:
    steps = bundle.steps(settings.steps)
    if settings.reference:
        check_reference(open_bundle(settings.reference), bundle)
    terms = found_terms(spec.recipe, settings, spec.pipeline)
    return Setup(
        bundle.folder.resolve(), bundle.stock(steps), terms,
        autoencoder_of(spec, bundle.provenance.choices)[0],
        settings.reference and settings.reference.resolve(), compare or settings.compares,
        fit=encoders_of(spec.recipe, settings, terms), place=settings.place,
    )  # fmt: skip


def side_of(bundle: OpenedBundle) -> int:
    """The shorter side of the bundle's pictures in pixels: reference pictures are seen at their size."""
    latents = bundle.manifest.latents
    return min(latents.height, latents.width) * latents.pixels_per_latent


def prediction_of(folder: Path) -> str:
    """What the bundle's network predicts: "flow", "epsilon" or another of diffusers' prediction types."""
    config = read_json(folder / SCHEDULER)
    return "flow" if "FlowMatch" in config["_class_name"] else config.get("prediction_type", "epsilon")
