"""An opened bundle with everything that searches and verdicts need; ablations use it too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from qsched_runtime import Coefficients

from qsched_edge.bundle import write as bundles
from qsched_edge.bundle.card import versions
from qsched_edge.bundle.opened import OpenedBundle, open_bundle
from qsched_edge.calibrate.budget import Budget
from qsched_edge.calibrate.engines import Cluster, Engine
from qsched_edge.calibrate.inputs import (
    check_reference,
    draws_of,
    found_terms,
    judge_identity,
    prompt_sets,
    uncalibrated_at,
)
from qsched_edge.calibrate.jobs import Draws, Setup
from qsched_edge.calibrate.pictures import Pictures
from qsched_edge.calibrate.registries import ENGINES
from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.jaq.loss import Loss, Scores, weights_of
from qsched_edge.lookup import lookup
from qsched_edge.pipelines.parts import autoencoder_of
from qsched_edge.prompts import PromptSet
from qsched_edge.work.journal import Journal

Advance = Callable[[int], None]
SEARCH_OPTIONS = (
    "search",
    "budget",
    "start",
    "points",
    "iterations",
    "jacobian",
    "check_gradient",
    "loss",
    "k",
    "guard",
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
    identity: Scores  # raw terms of the fitting pictures at c = 1

    @property
    def steps(self) -> int:
        return self.setup.steps

    def pictures(self, name: str) -> Pictures:
        """Of "fit", "heldout", or that one's halves "choosing" and "deciding"."""
        return Pictures(self.engine, self.journal, self.sets[name])

    def loss(self, name: str) -> Loss:
        return Loss.against(self.identity, weights_of(name, self.settings.k))

    def problem(self, loss: Loss, advance: Advance, count: int | None = None) -> Problem:
        """A fresh search's, from c = 1 on the fitting prompts, or on the first `count` of them."""
        draws = replace(self.sets["fit"], prompts=self.sets["fit"].prompts[:count])
        return Problem(
            Pictures(self.engine, self.journal, draws), loss,
            self.bundle.manifest.schedules[self.steps], self.bundle.manifest.latents.shape(),
            Budget.parse(self.settings.budget), np.random.default_rng(self.settings.seed),
            Coefficients.identity(self.steps), prediction_of(self.setup.bundle), self.settings.tuning, advance,
        )  # fmt: skip


def open_session(
    bundle: OpenedBundle, settings: CalibrationSettings, prompts: Path | None, heldout: Path | None, model: str | None,
    journal: Path, compare: bool = False,
) -> Session:  # fmt: skip
    """Read and check all inputs, start the engine, draw the fitting pictures at c = 1; `compare` them with full
    precision's even if the loss does not ask for it."""
    spec = bundle.model(model)
    sets = prompt_sets(spec.recipe, prompts, heldout)
    draws, setup = draws_of(settings, *sets), setup_of(bundle, spec, settings, compare)
    values = {n: v for n, v in settings.json().items() if n not in (*SEARCH_OPTIONS, *PLACE_OPTIONS)}
    stamp = {
        "settings": values, "bundle": bundle.uncalibrated(), "prompts": [s.sha256 for s in sets],
        "compare": setup.compare, "judge": judge_identity(setup.terms), "autoencoder": bundles.list_files(setup.vae),
        "reference": uncalibrated_at(settings.reference), "model": str(spec.folder), "versions": versions(),
    }  # fmt: skip
    engine: Engine = lookup(ENGINES[settings.engine])(setup, Cluster(settings.ray_address, settings.workers))
    nothing = Scores({})
    session = Session(settings, bundle, spec, setup, draws, sets, engine, Journal(journal, stamp), nothing)
    ((identity, _),) = session.pictures("fit").scores([Coefficients.identity(setup.steps)])
    return replace(session, identity=identity)


def setup_of(bundle: OpenedBundle, spec: ModelSpec, settings: CalibrationSettings, compare: bool) -> Setup:
    steps = bundle.steps(settings.steps)
    if settings.reference:
        check_reference(open_bundle(settings.reference), bundle)
    return Setup(
        bundle.folder.resolve(), steps, found_terms(spec.recipe, settings, spec.pipeline),
        autoencoder_of(spec, bundle.provenance.choices)[0],
        settings.reference and settings.reference.resolve(), compare or settings.compares,
        settings.place,
    )  # fmt: skip


def prediction_of(folder: Path) -> str:
    """What the bundle's network predicts: "flow", "epsilon" or another of diffusers' prediction types."""
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text("utf-8"))
    return "flow" if "FlowMatch" in config["_class_name"] else config.get("prediction_type", "epsilon")
