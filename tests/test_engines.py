"""Ray against one process, to the bit; a worker that dies; IO binding against the plain path."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qsched_runtime import Coefficients, Sampler

from qsched_edge.bundle.opened import open_bundle
from qsched_edge.calibrate.device import BoundGraph
from qsched_edge.calibrate.draws import Draws
from qsched_edge.calibrate.engines import Cluster
from qsched_edge.calibrate.engines.local import Local
from qsched_edge.calibrate.inputs import terms_of
from qsched_edge.calibrate.jobs import Job, Setup, Worker
from qsched_edge.calibrate.place import Place
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.checkpoint.recipes import resolve

DRAWS = Draws(tuple(f"a red apple, noto style {i}" for i in range(12)), 0)
FIRST = (1.0, 1.1, 0.9)  # c_eps of the first step, by candidate


@pytest.fixture(scope="module")
def setup(bundles: dict[int, Path], recipe: Path) -> Setup:
    spec = resolve(str(recipe))
    return Setup(
        bundles[4],
        open_bundle(bundles[4]).stock(4),
        terms_of(spec.recipe, CalibrationSettings()),
        spec.part("vae"),
        place=Place(threads=1),
    )


def jobs_of(setup: Setup) -> list[Job]:
    candidates = [replace(setup.stock, coefficients=Coefficients(np.ones(4), np.linspace(v, 1, 4))) for v in FIRST]
    return [Job("scores", DRAWS, b, c) for c in candidates for b in range(2)]


def terms_by(engine, jobs: list[Job]) -> list[list[float]]:  # type: ignore[no-untyped-def]
    try:
        return [[values.tolist() for values in done.result.scores.values.values()] for done in engine.run(jobs)]
    finally:
        engine.close()


def test_bound_memory_gives_the_plain_paths_bits(bundles: dict[int, Path]) -> None:
    plain = Sampler.from_pretrained(bundles[4], threads=1)
    bound = Sampler(plain.manifest, {**plain.graphs, "unet": BoundGraph(plain.graphs["unet"], "cpu")}, plain.tokenizers)
    for prompts, seed in ((["a red apple"] * 2, [1, 2]), (["a cat"], [3])):  # a second shape reuses nothing stale
        expected, found = (s(prompts, seed=seed).latents for s in (plain, bound))
        assert (found == expected).all()


@pytest.mark.slow
def test_ray_gives_one_processs_scores_to_the_bit(setup: Setup) -> None:
    pytest.importorskip("ray")
    from qsched_edge.calibrate.engines.ray import Ray

    assert terms_by(Ray(setup, Cluster(workers=2)), jobs_of(setup)) == terms_by(Local(setup, Cluster()), jobs_of(setup))


@pytest.mark.slow
def test_a_worker_that_dies_costs_time_and_nothing_else(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from qsched_edge.calibrate.engines import ray as engine

    class Mortal(Worker):
        """Dies once, before it does the job of candidate 1, batch 0."""

        def do(self, job: Job):  # type: ignore[no-untyped-def]
            if job.batch == 0 and job.schedule.coefficients.c_eps[0] == 1.1 and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os._exit(1)
            return super().do(job)

    monkeypatch.setattr(engine, "Worker", Mortal)
    found = terms_by(engine.Ray(setup, Cluster(workers=2)), jobs_of(setup))
    assert (tmp_path / "died").exists()
    assert found == terms_by(Local(setup, Cluster()), jobs_of(setup))
