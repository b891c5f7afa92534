"""Positive controls: a schedule that is wrong in a known way, and calibration that has to find it out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
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
from qsched_edge.calibrate.search import Problem, Proposal, propose
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import resolve
from qsched_edge.jaq.loss import Loss
from qsched_edge.work.journal import Journal

NOISE, OUTPUT = 1.10, 0.95  # fresh noise 10 % too strong, the network's output 5 % too weak


def wrong(stock: LearnedSchedule) -> LearnedSchedule:
    table = stock.table
    return replace(stock, table=replace(table, b=OUTPUT * table.b, c=NOISE * table.c))


def test_known_coefficients_are_recovered_from_quantized_passes(
    bundles: dict[int, Path], recipe: Path, tmp_path: Path
) -> None:
    """By nearness to full precision's latents from the same noise, in which both numbers show: c_z of the steps that
    draw noise and c_eps of every step within 2 % of what undoes the fault."""
    spec, stock = resolve(str(recipe)), open_bundle(bundles[4]).stock(4)
    terms = replace(terms_of(spec.recipe, CalibrationSettings()), text_image="", quality="")
    setup = Setup(bundles[4], stock, terms, spec.part("vae"), bundles[32], compare=True, place=Place(threads=1))
    engine, faulty = Local(setup, Cluster()), wrong(stock)
    pictures = Pictures(engine, Journal(tmp_path / "journal", {}), Draws(tuple(f"a cat {i}" for i in range(8)), 0))
    ((scores, _),) = pictures.scores([faulty])
    loss = Loss.against(scores, {"reference": 1.0})
    found: Proposal | None = None
    for search in ("noise", "free", "noise", "free"):  # one column after the other, twice
        start = found.schedule if found else faulty
        problem = Problem(
            pictures, loss, faulty, (4, 8, 8), Budget(), np.random.default_rng(0), start, "epsilon",
            lambda timesteps: faulty.table,
        )  # fmt: skip
        found = propose(search, problem)
    assert found is not None
    drawing = stock.table.c != 0
    c_z = found.schedule.table.c[drawing] / faulty.table.c[drawing]
    print(
        "c_z", c_z * NOISE, "c_eps", found.schedule.coefficients.c_eps * OUTPUT, "c_x", found.schedule.coefficients.c_x
    )
    np.testing.assert_allclose(c_z, 1 / NOISE, rtol=0.02)
    np.testing.assert_allclose(found.schedule.coefficients.c_eps, 1 / OUTPUT, rtol=0.02)
    np.testing.assert_allclose(found.schedule.coefficients.c_x[stock.table.a != 0], 1.0, rtol=0.02)
    assert found.fit > 0
    assert isinstance(found.schedule.coefficients, Coefficients)
