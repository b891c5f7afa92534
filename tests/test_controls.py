"""Positive controls: a schedule that is wrong in a known way, and calibration that has to find it out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from qsched_runtime import Coefficients

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.bundle.opened import open_bundle
from qsched_edge.calibrate.budget import Budget
from qsched_edge.calibrate.engines import Cluster
from qsched_edge.calibrate.engines.local import Local
from qsched_edge.calibrate.inputs import terms_of
from qsched_edge.calibrate.jobs import Draws, Setup
from qsched_edge.calibrate.pictures import Pictures
from qsched_edge.calibrate.place import Place
from qsched_edge.calibrate.search import Problem
from qsched_edge.calibrate.searches.noise import noisier
from qsched_edge.calibrate.searches.trust import maximise
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import ModelSpec, resolve
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings
from qsched_edge.jaq.loss import Loss
from qsched_edge.prompts import read_prompts
from qsched_edge.work.journal import Journal

NOISE, OUTPUT = 1.10, 0.95  # fresh noise 10 % too strong, the network's output 5 % too weak


def wrong(stock: LearnedSchedule) -> LearnedSchedule:
    table = stock.table
    return replace(stock, table=replace(table, b=OUTPUT * table.b, c=NOISE * table.c))


def recovered(bundle: Path, full: Path, spec: ModelSpec, journal: Path) -> np.ndarray:
    """c_z, one number, and c_eps of each step, as shares of what undoes the fault: found by nearness to full
    precision's latents from the same noise, in which each of them shows.

    c_x stays at one: at the highest noise latents and output are nearly the same, so that c_x and c_eps of the first
    step stand for each other, and no loss tells them apart.
    """
    stock = open_bundle(bundle).stock(4)
    terms = replace(terms_of(spec.recipe, CalibrationSettings()), text_image="", quality="")
    setup = Setup(bundle, stock, terms, spec.part("vae"), full, compare=True, place=Place(threads=1))
    engine, faulty = Local(setup, Cluster()), wrong(stock)
    prompts = read_prompts(ROOT / "calib_prompts/emoji.txt").first(8)
    pictures = Pictures(engine, Journal(journal, {}), Draws(prompts, 0))
    ((scores, _),) = pictures.scores([faulty])
    problem = Problem(
        pictures, Loss.against(scores, {"reference": 1.0}), faulty, engine.worker.sampler.manifest.latents.shape(),
        Budget(), np.random.default_rng(0), faulty, "epsilon", lambda t: faulty.table,
    )  # fmt: skip
    drawing = int((stock.table.c != 0).sum())

    def score(values: np.ndarray) -> float:
        moved = problem.at(Coefficients(np.ones(4), values[1:]))
        return problem.score(noisier(moved, np.full(drawing, values[0])))

    return maximise(score, np.ones(5), 0.05, 0.00002, 250) * np.array([NOISE, *[OUTPUT] * 4])


def test_known_coefficients_are_recovered(bundles: dict[int, Path], recipe: Path, tmp_path: Path) -> None:
    """On a miniature of full precision, where nothing but the fault sets both apart."""
    found = recovered(bundles[32], bundles[32], resolve(str(recipe)), tmp_path / "journal")
    np.testing.assert_allclose(found, 1, rtol=0.02)


@pytest.mark.slow
def test_known_coefficients_are_recovered_from_quantized_passes(tmp_path: Path) -> None:
    """On the embedded model at 4 bits. The first step's c_eps hardly shows under the fresh noise that follows it, and
    what rounding changes weighs more: it is found to 11 % only."""
    spec = resolve("emoji")
    folders = [export(spec, ExportSettings(bits), tmp_path / f"w{bits}", quiet=True) for bits in (4, 32)]
    c_z, first, *others = recovered(*folders, spec, tmp_path / "journal")
    np.testing.assert_allclose([c_z, *others], 1, rtol=0.025)
    np.testing.assert_allclose(first, 1, rtol=0.12)
