"""calibrate: fit on one prompt set, let held-out prompts decide, write what won into the bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from qsched_runtime import Coefficients, Sampler
from qsched_runtime import manifest as manifests

from qsched_edge import bundle as bundles
from qsched_edge.calibrate.journal import Journal
from qsched_edge.calibrate.objective import Objective
from qsched_edge.calibrate.search import Problem, Proposal, recalled_scores
from qsched_edge.errors import MetricError, QSchedError, RequestError, unknown_name
from qsched_edge.intervals import Interval, paired_difference
from qsched_edge.jaq.clip import ClipModel
from qsched_edge.jaq.loss import JAQ, Judge
from qsched_edge.prompts import PromptSet, read_prompts
from qsched_edge.recipes import ModelSpec, Recipe, resolve

SEARCHES = {
    "grid": "qsched_edge.calibrate.grid:search",
    "gradient": "qsched_edge.calibrate.gradient:search",
}
HELDOUT_SEEDS = 1_000_000  # held-out noise starts here, far from the fitting prompts' seeds


@dataclass(frozen=True)
class Settings:
    """`search` names one search, or "both" for all; counts are prompts; see the command's help for the rest."""

    search: str = "both"
    k: float = 2.0
    steps: int | None = None
    points: int = 7
    iterations: int = 24
    fit_prompts: int = 32
    heldout_prompts: int = 64
    seed: int = 0
    providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def __post_init__(self) -> None:
        if self.search != "both" and self.search not in SEARCHES:
            raise RequestError(unknown_name("search", self.search, [*SEARCHES, "both"]))
        for name in ("points", "iterations", "fit_prompts", "heldout_prompts"):
            if getattr(self, name) < 2:
                raise RequestError(f"{name} {getattr(self, name)} is too few: use 2 or more")

    @property
    def searches(self) -> tuple[str, ...]:
        return tuple(SEARCHES) if self.search == "both" else (self.search,)


@dataclass(frozen=True)
class Verdict:
    """A proposal judged on held-out prompts: JAQ gained over identity, with its interval."""

    proposal: Proposal
    gain: Interval


@dataclass(frozen=True)
class Result:
    """What calibrate decided; `record` is what went into the bundle's provenance."""

    record: dict[str, Any]

    def table(self) -> str:
        rows = ["search     held-out JAQ gain   95 % interval       passes"]
        for c in self.record["candidates"]:
            gain, low, high = (c["heldout_gain"][key] for key in ("estimate", "low", "high"))
            rows.append(f"{c['search']:10} {gain:+.3f}              [{low:+.3f}, {high:+.3f}]   {c['passes']}")
        c_x, c_eps = (" ".join(f"{v:.4f}" for v in self.record[n]) for n in ("c_x", "c_eps"))
        return "\n".join([*rows, f"shipped: {self.record['shipped']}   c_x {c_x}   c_eps {c_eps}"])


def calibrate(
    folder: Path, settings: Settings, prompts: Path | None, heldout: Path | None, model: str | None, quiet: bool
) -> Result:
    """Learn coefficients for the bundle at `folder` and write them into it."""
    manifest = manifests.read(folder)
    spec = resolve(model or manifest.raw["provenance"]["recipe"])
    fit_set = read_prompts(prompts or recipe_path(spec.recipe, "prompts"))
    heldout_set = read_prompts(heldout or recipe_path(spec.recipe, "heldout"))
    fit, held = fit_set.first(settings.fit_prompts), heldout_set.first(settings.heldout_prompts)
    steps = settings.steps or manifest.default_steps
    sampler = Sampler.from_pretrained(folder, providers=settings.providers)
    sampler.schedule(steps)
    judge = judge_of(spec.recipe)
    identity = {
        "settings": asdict(settings), "backbone": bundles.backbone_hash(manifest),
        "prompts": [fit_set.sha256, heldout_set.sha256], "scorer": scorer_hash(spec.recipe), "model": str(spec.folder),
    }  # fmt: skip
    journal = Journal(folder.with_name(f".{folder.name}.calibration"), identity)
    objective = Objective(sampler, judge, fit, settings.seed * 10_000, steps)
    ones = Coefficients.identity(steps)
    jaq = JAQ.against(recalled_scores(journal, objective, ones), settings.k)
    problem = Problem(objective, jaq, journal, spec.part("vae"), settings.points, settings.iterations, quiet)
    proposals = [function_of(name)(problem) for name in settings.searches]
    verdicts = judge_proposals(
        proposals,
        Objective(sampler, judge, held, HELDOUT_SEEDS + settings.seed * 10_000, steps),
        jaq,
        journal,
        settings.seed,
    )
    chosen = choose(verdicts, ones)
    record = make_record(settings, manifest, verdicts, chosen, (fit_set, heldout_set), jaq, spec)
    bundles.write_coefficients(folder, steps, chosen.coefficients, record)
    journal.remove()
    return Result(record)


def recipe_path(recipe: Recipe, name: str) -> Path:
    value = getattr(recipe, name)
    if not value:
        raise QSchedError(f"recipe {recipe.name} names no {name}: give --{name}")
    return recipe.path(value)


def judge_of(recipe: Recipe) -> Judge:
    if not recipe.scorer:
        raise MetricError(f"recipe {recipe.name} names no scorer: add scorer = FOLDER of an open_clip model")
    return Judge(ClipModel(recipe.path(recipe.scorer)), recipe.quality_prompts)


def scorer_hash(recipe: Recipe) -> str:
    return manifests.sha256(recipe.path(recipe.scorer) / "open_clip_model.safetensors")


def function_of(name: str) -> Any:
    module, function = SEARCHES[name].split(":")
    return getattr(import_module(module), function)


def judge_proposals(
    proposals: list[Proposal], objective: Objective, jaq: JAQ, journal: Journal, seed: int
) -> list[Verdict]:
    """Each proposal against identity on the held-out prompts, same noise, paired."""
    identity = Coefficients.identity(objective.steps)
    before = jaq.of(recalled_scores(journal, objective, identity))
    return [
        Verdict(p, paired_difference(jaq.of(recalled_scores(journal, objective, p.coefficients)), before, seed))
        for p in proposals
    ]


def choose(verdicts: list[Verdict], identity: Coefficients) -> Proposal:
    """The proposal with the largest held-out gain whose interval lies above zero; identity otherwise."""
    sound = [v for v in verdicts if v.gain.low > 0]
    if not sound:
        return Proposal("identity", identity, 0.0, 0)
    return max(sound, key=lambda v: v.gain.estimate).proposal


def make_record(
    settings: Settings,
    manifest: manifests.Manifest,
    verdicts: list[Verdict],
    chosen: Proposal,
    sets: tuple[PromptSet, PromptSet],
    jaq: JAQ,
    spec: ModelSpec,
) -> dict[str, Any]:
    """Everything needed to see where the coefficients come from and to compute them again."""
    fit_set, heldout_set = sets
    return {
        "shipped": chosen.search,
        "c_x": chosen.coefficients.c_x.tolist(),
        "c_eps": chosen.coefficients.c_eps.tolist(),
        "settings": asdict(settings),
        "jaq": asdict(jaq),
        "candidates": [
            {
                "search": v.proposal.search,
                "c_x": v.proposal.coefficients.c_x.tolist(),
                "c_eps": v.proposal.coefficients.c_eps.tolist(),
                "fit_jaq": v.proposal.fit_jaq,
                "heldout_gain": asdict(v.gain),
                "passes": v.proposal.passes,
            }
            for v in verdicts
        ],
        "prompts": {"file": fit_set.path.name, "sha256": fit_set.sha256, "count": settings.fit_prompts},
        "heldout": {"file": heldout_set.path.name, "sha256": heldout_set.sha256, "count": settings.heldout_prompts},
        "scorer_sha256": scorer_hash(spec.recipe),
        "backbone_sha256": bundles.backbone_hash(manifest),
    }
