"""calibrate: fit on one prompt set, let held-out prompts decide, write what won into the bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Coefficients
from qsched_runtime import manifest as manifests

from qsched_edge import bundle as bundles
from qsched_edge import progress
from qsched_edge.calibrate.budget import Budget
from qsched_edge.calibrate.engines import ENGINES, Cluster, Engine
from qsched_edge.calibrate.jobs import Drawn, Setup
from qsched_edge.calibrate.lock import locked
from qsched_edge.calibrate.pictures import Pictures
from qsched_edge.calibrate.record import BOUNDS, Result, candidate_json
from qsched_edge.calibrate.safeguards import UNCOMPARED, collapse, departure, saturation, shared, too_few, warnings_of
from qsched_edge.calibrate.search import STARTED, Problem, Proposal, propose
from qsched_edge.calibrate.settings import HELDOUT_SEEDS, SEED_STRIDE, Settings
from qsched_edge.calibrate.verdicts import Verdict, choose, judge, ships
from qsched_edge.card import versions
from qsched_edge.errors import BundleError, PromptsError, QSchedError
from qsched_edge.jaq.judge import Judge, TermSettings
from qsched_edge.jaq.loss import Loss, Scores, weights_of
from qsched_edge.journal import Journal
from qsched_edge.lookup import lookup
from qsched_edge.pipelines.parts import autoencoder_of, choices_of
from qsched_edge.prompts import PromptSet, read_prompts
from qsched_edge.recipes import ModelSpec, Recipe, resolve
from qsched_edge.staging import digest

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
class Workshop:
    """An opened bundle with everything that searches and verdicts need; ablations use it too."""

    settings: Settings
    manifest: manifests.Manifest
    spec: ModelSpec
    setup: Setup
    sets: Mapping[str, Drawn]
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
        drawn = replace(self.sets["fit"], prompts=self.sets["fit"].prompts[:count])
        return Problem(
            Pictures(self.engine, self.journal, drawn), loss,
            self.manifest.schedules[self.steps], self.manifest.latents.shape(),
            Budget.parse(self.settings.budget), np.random.default_rng(self.settings.seed),
            Coefficients.identity(self.steps), prediction_of(self.setup.bundle), self.settings.tuning, advance,
        )  # fmt: skip


def calibrate(
    folder: Path, settings: Settings, prompts: Path | None, heldout: Path | None, model: str | None, quiet: bool
) -> Result:
    """Learn coefficients for the bundle at `folder` and write them into it; one process at a time does."""
    folder = folder.resolve()
    manifests.read(folder)  # raises before anything is written beside a bundle that is none
    with locked(folder):
        return calibrate_alone(folder, settings, prompts, heldout, model, quiet)


def calibrate_alone(
    folder: Path, settings: Settings, prompts: Path | None, heldout: Path | None, model: str | None, quiet: bool
) -> Result:
    journal = folder.with_name(f".{folder.name}.calibration")
    shop = open_workshop(folder, settings, prompts, heldout, model, journal)
    try:
        loss = shop.loss(settings.loss)
        proposals = search_all(shop, loss, quiet)
        verdicts, before = judge_all(shop, proposals, loss)
    finally:
        shop.engine.close()
    chosen = choose(verdicts)
    identity = Coefficients.identity(shop.steps)
    record = make_record(shop, verdicts, chosen, loss, before)
    bundles.write_coefficients(folder, shop.steps, chosen.proposal.coefficients if ships(chosen) else identity, record)
    shop.journal.remove()
    return Result(record)


def open_workshop(
    folder: Path, settings: Settings, prompts: Path | None, heldout: Path | None, model: str | None, journal: Path,
    compare: bool = False,
) -> Workshop:  # fmt: skip
    """Read and check all inputs, start the engine, draw the fitting pictures at c = 1; `compare` them with full
    precision's even if the loss does not ask for it."""
    manifest = manifests.read(folder)
    spec = resolve(model or manifest.raw["provenance"]["recipe"])
    sets = prompt_sets(spec.recipe, prompts, heldout)
    drawn, setup = drawn_of(settings, *sets), setup_of(folder, manifest, spec, settings, compare)
    values = {n: v for n, v in asdict(settings).items() if n not in (*SEARCH_OPTIONS, *PLACE_OPTIONS)}
    stamp = {
        "settings": values, "bundle": bundles.uncalibrated(manifest), "prompts": [s.sha256 for s in sets],
        "compare": setup.compare, "judge": judge_identity(setup.terms), "autoencoder": bundles.list_files(setup.vae),
        "reference": uncalibrated_at(settings.reference), "model": str(spec.folder), "versions": versions(),
    }  # fmt: skip
    engine: Engine = lookup(ENGINES[settings.engine])(setup, Cluster(settings.ray_address, settings.workers))
    nothing = Scores(np.zeros(0), np.zeros(0))
    shop = Workshop(settings, manifest, spec, setup, drawn, sets, engine, Journal(journal, stamp), nothing)
    ((identity, _),) = shop.pictures("fit").scores([Coefficients.identity(setup.steps)])
    return replace(shop, identity=identity)


def setup_of(folder: Path, manifest: manifests.Manifest, spec: ModelSpec, settings: Settings, compare: bool) -> Setup:
    steps = steps_of(manifest, settings.steps)
    if settings.reference:
        check_reference(settings.reference, manifest)
    return Setup(
        folder.resolve(), steps, terms_of(spec.recipe, settings),
        autoencoder_of(spec, choices_of(manifest))[0],
        settings.reference and settings.reference.resolve(), compare or settings.compares,
        settings.device, settings.providers, settings.memory, settings.threads,
    )  # fmt: skip


def steps_of(manifest: manifests.Manifest, wanted: int | None) -> int:
    """The step count asked for, or the bundle's default; raises BundleError for one it has no schedule of."""
    steps = manifest.default_steps if wanted is None else wanted
    if steps not in manifest.schedules:
        raise BundleError(f"no schedule for {steps} steps: this bundle has {sorted(manifest.schedules)}")
    return steps


def prompt_sets(recipe: Recipe, prompts: Path | None, heldout: Path | None) -> tuple[PromptSet, PromptSet]:
    """To fit on and to decide by: the files given, or the recipe's. Raises PromptsError if they are the same."""
    fit = read_prompts(prompts or recipe_path(recipe, "prompts"))
    held = read_prompts(heldout or recipe_path(recipe, "heldout"))
    if fit.prompts == held.prompts:
        raise PromptsError(
            f"{fit.path} and {held.path} hold the same prompts: decide by prompts that were not fitted on"
        )
    return fit, held


def drawn_of(settings: Settings, fit_set: PromptSet, heldout_set: PromptSet) -> dict[str, Drawn]:
    """The prompts and noise of fitting, and of the two halves that choose and decide."""
    fit, held = fit_set.first(settings.fit_prompts), heldout_set.first(settings.heldout_prompts)
    first, half = settings.seed * SEED_STRIDE, len(held) // 2
    start = HELDOUT_SEEDS + first
    return {
        "fit": Drawn(fit, first),
        "heldout": Drawn(held, start),
        "choosing": Drawn(held[:half], start),
        "deciding": Drawn(held[half:], start + half),
    }


def check_reference(folder: Path, quantized: manifests.Manifest) -> None:
    """Raises BundleError unless `folder` is a 32-bit bundle of the same weights."""
    found, wanted = manifests.read(folder).raw["provenance"], quantized.raw["provenance"]
    if found["bits"] != 32 or found["sources"] != wanted["sources"]:
        raise BundleError(
            f"{folder} is no 32-bit bundle of this model's weights: remove it or name another --reference"
        )


def terms_of(recipe: Recipe, settings: Settings) -> TermSettings:
    """The recipe's metrics, unless the settings name others."""
    return TermSettings(
        str(recipe.path(recipe.scorer)) if recipe.scorer else "", settings.text_image or recipe.text_image,
        settings.quality or recipe.quality, recipe.quality_prompts, str(recipe.path(recipe.hps)) if recipe.hps else "",
    )  # fmt: skip


def prediction_of(folder: Path) -> str:
    """What the bundle's network predicts: "flow", "epsilon" or another of diffusers' prediction types."""
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text("utf-8"))
    return "flow" if "FlowMatch" in config["_class_name"] else config.get("prediction_type", "epsilon")


def search_all(shop: Workshop, loss: Loss, quiet: bool) -> list[Proposal]:
    """Every search in turn; closed forms come first where the others start from them, and their passes count there."""
    proposals: list[Proposal] = []
    for name in shop.settings.searches:
        with progress.bar(name, None, "passes", quiet) as advance:
            problem = shop.problem(loss, advance)
            if name in STARTED and shop.settings.start == "closed":
                problem = started(problem, proposals[0])
            proposals.append(propose(name, problem))
    return proposals


def started(problem: Problem, first: Proposal) -> Problem:
    """The problem, to begin where another search ended and with all that it took paid: both have scored c = 1."""
    problem.start, books = first.coefficients, problem.books
    books.passes, books.pictures, books.seconds = first.passes, first.pictures, first.seconds
    return problem


def judge_all(shop: Workshop, proposals: Sequence[Proposal], loss: Loss) -> tuple[list[Verdict], Scores]:
    """One proposal is decided by all held-out prompts; several share them: half chooses, half decides."""
    if len(proposals) == 1:
        return judge(proposals, None, shop.pictures("heldout"), loss, shop.settings.seed)
    return judge(proposals, shop.pictures("choosing"), shop.pictures("deciding"), loss, shop.settings.seed)


def make_record(
    shop: Workshop, verdicts: Sequence[Verdict], chosen: Verdict, loss: Loss, before: Scores
) -> dict[str, Any]:
    """Everything needed to see where the coefficients come from and to compute them again."""
    ok, settings, (fit_set, heldout_set) = ships(chosen), shop.settings, shop.prompts
    coefficients = chosen.proposal.coefficients if ok else Coefficients.identity(shop.steps)
    values = {n: v for n, v in asdict(settings).items() if n not in PLACE_OPTIONS}
    return {
        "shipped": chosen.proposal.search if ok else "identity",
        "chosen": chosen.proposal.search,
        **bundles.coefficients_json(coefficients),
        "settings": {n: str(v) if isinstance(v, Path) else v for n, v in values.items()},
        "loss": {"name": settings.loss, "k": settings.k, **asdict(loss)},
        "metrics": {"text_image": shop.setup.terms.text_image, "quality": shop.setup.terms.quality},
        "bounds": BOUNDS,
        "candidates": [candidate_json(v) for v in verdicts],
        "warnings": warnings(shop, verdicts, before),
        "prompts": {"file": fit_set.path.name, "sha256": fit_set.sha256, "count": settings.fit_prompts},
        "heldout": {"file": heldout_set.path.name, "sha256": heldout_set.sha256, "count": settings.heldout_prompts},
        "scorer_sha256": scorer_hash(shop.setup.terms),
        "backbone_sha256": bundles.backbone_hash(shop.manifest),
        "reference_sha256": digest(uncalibrated_at(settings.reference)) if settings.reference else None,
        "versions": versions(),
    }


def warnings(shop: Workshop, verdicts: Sequence[Verdict], before: Scores) -> list[str]:
    judge = Judge(shop.setup.terms, shop.setup.device)
    found = shared(shop.sets["fit"].prompts, shop.sets["heldout"].prompts)
    found += too_few(len(before.quality))
    found += saturation("text_image", before.text_image, judge.text_image)
    found += saturation("quality", before.quality, judge.quality)
    if shop.settings.guard and not shop.setup.compare:
        found.append(UNCOMPARED)
    for v in verdicts:
        found += departure(v) + warnings_of(v.proposal) + collapse(v.proposal.search, v.scores, before)
    return found


def recipe_path(recipe: Recipe, name: str) -> Path:
    value = getattr(recipe, name)
    if not value:
        raise QSchedError(f"recipe {recipe.name} names no {name}: give --{name}")
    return recipe.path(value)


def judge_of(recipe: Recipe) -> Judge:
    return Judge(terms_of(recipe, Settings()))


def uncalibrated_at(folder: Path | None) -> dict[str, Any] | None:
    """What the pictures of the bundle there depend on, beside coefficients."""
    return bundles.uncalibrated(manifests.read(folder)) if folder else None


def judge_identity(terms: TermSettings) -> dict[str, Any]:
    """All that both terms depend on: their settings and every file they look through."""
    hps = Path(terms.hps)
    return {
        "terms": asdict(terms),
        "scorer": bundles.list_files(Path(terms.scorer)) if terms.scorer else [],
        "hps": manifests.sha256(hps) if hps.is_file() else "",
    }


def scorer_hash(terms: TermSettings) -> str:
    """SHA-256 of the open_clip weights, empty where no term looks through them."""
    path = Path(terms.scorer) / "open_clip_model.safetensors"
    return manifests.sha256(path) if terms.scorer and path.is_file() else ""
