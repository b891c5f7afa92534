"""The evidence's part "schedules": what a better schedule is worth, on the embedded model.

Three questions, each with a table: a schedule that calibration found beside the stock one and one made by hand, at
each width; a schedule learned on the quantized network beside one learned on full precision; losses and columns side by
side. Judges of the report look at 96 held-out prompts that no calibration here fits to or decides by. What is finished
is not made again.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from qsched_runtime import Sampler

from benchmarks.ablation import Found
from qsched_edge.ablate.judged import closed
from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.bundle.opened import open_bundle
from qsched_edge.checkpoint.recipes import read_json
from qsched_edge.checkpoint.timesteps import probe_at
from qsched_edge.evaluate.cells import CELL, Asked, Cell, write_cell
from qsched_edge.intervals import Interval
from qsched_edge.jaq.panel import Panel, Resampled, panel_of
from qsched_edge.jaq.settings import JudgeSource
from qsched_edge.pipelines import layout_of
from qsched_edge.prompts import read_prompts
from qsched_edge.work.staging import digest, write_json

PROMPTS, NOISES = 96, 1
HELD = 160  # prompts that decide, from the other end of their file
FULL, W4, W2 = "w32", "w4a16", "w2a16"
BITS = {FULL: 32, W4: 4, W2: 2}
HAND = {FULL: (999, 939, 879, 819), W4: (999, 939, 879, 819), W2: (999, 959, 919, 879)}  # in five tries by hand
MEASURES = ("top1", "log_p", "frechet", "grain")
FORMS = {"top1": "{:+.1%}", "log_p": "{:+.2f}", "frechet": "{:+.1f}", "grain": "{:+.2f}"}


@dataclass(frozen=True)
class Fit:
    """One calibration: the bundle it learns on, its loss and how sets are combined; each of `columns` in turn."""

    bundle: str
    loss: str = "distribution"
    combine: str = "sum"
    columns: tuple[str, ...] = ("timesteps",)

    @property
    def name(self) -> str:
        return "-".join((self.bundle, self.loss, self.combine, *self.columns))


ALL = ("timesteps", "c_z", "c")
FOUND = {name: Fit(name) for name in BITS}
OBJECTIVES = (
    Fit(W4, columns=ALL), Fit(W4, combine="worst", columns=ALL), Fit(W4, "jaq", columns=ALL),
    Fit(W4, "reference", columns=ALL),
)  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A folder of bundles, calibrations and judged cells; `model` is the recipe that all are made of."""

    folder: Path
    model: str
    threads: Sequence[object] = ()

    def command(self, *arguments: object) -> str:
        asked = [sys.executable, "-m", "qsched_edge", *map(str, arguments)]
        return subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout

    def bundle(self, name: str) -> Path:
        folder = self.folder / name
        if not folder.exists():
            self.command("export", "--model", self.model, "--bits", BITS[name], "-o", folder, "--quiet")
        return folder

    def record(self, fit: Fit) -> dict[str, Any]:
        """Of a calibration on a copy of the bundle, whose gate is not asked: the judges here are."""
        path = self.folder / f"{fit.name}.json"
        if not path.exists():
            copy, start = self.folder / f"copy-{fit.name}", children_seconds()
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.bundle(fit.bundle), copy)
            columns = [word for name in fit.columns for word in ("--columns", name)]
            text = self.command(
                "calibrate", copy, "--model", self.model, "--loss", fit.loss, "--combine", fit.combine, *columns,
                "--accept", "loss", "--reference", self.bundle(FULL), "--heldout-prompts", 16, "--memory", "fast",
                "--json", "--quiet", *self.threads,
            )  # fmt: skip
            write_json(path, {**json.loads(text), "cpu_seconds": children_seconds() - start})
            shutil.rmtree(copy)
        return json.loads(path.read_text())

    def found(self, fit: Fit, column: int = -1) -> LearnedSchedule:
        """The schedule that a calibration proposes, whether or not it would ship."""
        c = self.record(fit)["candidates"][column]
        return self.at(fit.bundle, c["timesteps"], c)

    def at(self, bundle: str, timesteps: Sequence[float], numbers: Mapping[str, Any] | None = None) -> LearnedSchedule:
        """The stock schedule of the bundle at other timesteps, with a proposal's c_z, c_x and c_eps."""
        folder = self.bundle(bundle)
        opened = open_bundle(folder)
        sampling = layout_of(opened.model(self.model), opened.provenance.choices).sampling
        config = read_json(folder / "scheduler/scheduler_config.json")
        table = probe_at(config, [t / sampling.timestep_scale for t in timesteps], sampling)
        if numbers is None:
            return LearnedSchedule.stock(table)
        noisy = replace(table, c=table.c * np.array(numbers["c_z"]))
        return LearnedSchedule.read({**LearnedSchedule.stock(noisy).json(), **numbers_of(numbers)})

    def stock(self, bundle: str) -> LearnedSchedule:
        return open_bundle(self.bundle(bundle)).stock(4)

    @cached_property
    def panel(self) -> Panel:
        """The judges of the report but `paired`, which other timesteps leave by their nature."""
        recipe = open_bundle(self.bundle(FULL)).model(self.model).recipe
        return panel_of([n for n in recipe.report if n != "paired"], recipe, JudgeSource(), self.prompts)

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        recipe = open_bundle(self.bundle(FULL)).model(self.model).recipe
        return read_prompts(recipe.path(recipe.heldout)).first(PROMPTS)

    def judged(self, bundle: str, schedule: LearnedSchedule) -> Resampled:
        """Every measure of the pictures, on all prompts and on the same resamples of them for every call."""
        folder = self.folder / f"cell-{bundle}-{digest(schedule.json())[:12]}"
        if not (folder / CELL).exists():
            folder.mkdir(exist_ok=True)
            sampler = Sampler.from_pretrained(self.bundle(bundle), memory="fast", threads=1)
            write_cell(sampler, schedule, folder, Asked(self.panel, self.prompts, NOISES, 12), lambda n: None)
        looks = Cell.load(folder / CELL).looks
        return self.panel.sampled(looks, len(self.prompts))


def children_seconds() -> float:
    """CPU time that commands run from here have taken so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def numbers_of(candidate: Mapping[str, Any]) -> dict[str, Any]:
    return {name: candidate[name] for name in ("c_x", "c_eps", "bias") if name in candidate}


def cells(found: Resampled, study: Study, base: Resampled | None) -> list[str]:
    """A measure each: its value, and what it gains over `base`, where above zero is better."""
    gains = study.panel.better(found, base) if base else {}
    readings = study.panel.readings
    return [
        f"{readings[m].form.format(found[m][0])}" + (f" ({signed(gains[m], FORMS[m])})" if base else "")
        for m in MEASURES
    ]


def signed(gain: Interval, form: str) -> str:
    return f"{form.format(gain.estimate)} [{form.format(gain.low)}, {form.format(gain.high)}]"


def head(first: str, *more: str) -> list[str]:
    columns = [first, "top-1", "log p of the concept", "Fréchet, concepts", "Fréchet, grain", *more]
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def stock_hand_found(study: Study) -> str:
    """At each width; gains over the stock schedule of the same network."""
    lines = head("")
    for name in BITS:
        plain = study.judged(name, study.stock(name))
        lines.append(f"| {name.upper()}, stock | {' | '.join(cells(plain, study, None))} |")
        for title, schedule in (("by hand", study.at(name, HAND[name])), ("found", study.found(FOUND[name]))):
            steps = " ".join(f"{t:.0f}" for t in schedule.table.timesteps)
            row = cells(study.judged(name, schedule), study, plain)
            lines.append(f"| {name.upper()}, {title}: {steps} | {' | '.join(row)} |")
    return "\n".join(lines)


def closed_gap(study: Study) -> str:
    """Which share of the way from W2 to full precision, both by the stock schedule, the found one closes."""
    full, plain = (study.judged(name, study.stock(name)) for name in (FULL, W2))
    lines = head("W2A16")
    for title, schedule in (("by hand", study.at(W2, HAND[W2])), ("found", study.found(FOUND[W2]))):
        now = study.judged(W2, schedule)
        shares = [closed(now[m], plain[m], full[m]) for m in MEASURES]
        texts = [f"{s['estimate']:.0%} [{s['low']:.0%}, {s['high']:.0%}]" if s else "no gap" for s in shares]
        lines.append(f"| {title} | {' | '.join(texts)} |")
    return "\n".join(lines)


def transferred(study: Study) -> str:
    """What learning on the quantized network gains over the schedule learned on full precision."""
    lines = head("learned on itself over learned on full precision")
    for name in (W4, W2):
        own = study.judged(name, study.found(FOUND[name]))
        other = study.judged(name, study.found(FOUND[FULL]))
        gains = study.panel.better(own, other)
        lines.append(f"| {name.upper()} | {' | '.join(signed(gains[m], FORMS[m]) for m in MEASURES)} |")
    return "\n".join(lines)


def objectives(study: Study) -> str:
    """At W4: each loss, with one column after the other; gains over the stock schedule."""
    plain, lines = study.judged(W4, study.stock(W4)), head("loss, columns", "passes", "seconds, all columns")
    for fit in OBJECTIVES:
        for i, candidate in enumerate(study.record(fit)["candidates"]):
            gains = study.panel.better(study.judged(W4, study.found(fit, i)), plain)
            title = fit.loss + (f", {fit.combine}" if fit.loss == "distribution" else "")
            moved = " + ".join(fit.columns[: i + 1])
            row = " | ".join(signed(gains[m], FORMS[m]) for m in MEASURES)
            seconds = f"{study.record(fit).get('cpu_seconds', 0):.0f}" if i == len(fit.columns) - 1 else ""
            lines.append(f"| {title}: {moved} | {row} | {candidate['passes']:,} | {seconds} |")
    return "\n".join(lines)


TABLES = {
    "schedules": stock_hand_found, "closed gap": closed_gap, "objectives": objectives, "transferred": transferred,
}  # fmt: skip
TIMESTEPS = (  # what stands above each table of the marker "timesteps"
    ("schedules", "Gains over the stock schedule of the same network stand in brackets; above zero is better:"),
    ("closed gap", "What is won back of the way from W2 to full precision, both by the stock schedule:"),
    ("objectives", "Losses and columns side by side at W4A16, gains over the stock schedule:"),
)


def measure(folder: Path, model: str, threads: Sequence[object], names: Sequence[str] = tuple(TABLES)) -> Found:
    """The named tables as Markdown, and the record of every calibration that they rest on."""
    study = Study(folder, model, threads)
    made = {name: TABLES[name](study) for name in names}
    above = "\n\n".join(f"{title}\n\n{made[name]}" for name, title in TIMESTEPS if name in made)
    texts = {"timesteps": above} | ({"controls": made["transferred"]} if "transferred" in made else {})
    records = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("w*-*.json"))}
    return Found(records, texts, {})
