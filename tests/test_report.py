"""The report's numbers and tables: calibration's gain on each network, a bias and channels, another step count."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, cli
from qsched_runtime import Coefficients, Sampler
from qsched_runtime import manifest as manifests

from qsched_edge import noise
from qsched_edge.bundle.learned import coefficients_json
from qsched_edge.bundle.opened import open_bundle
from qsched_edge.bundle.write import write_schedule
from qsched_edge.checkpoint.recipes import Recipe
from qsched_edge.evaluate.cells import Asked, Cell, last_latents, write_cell
from qsched_edge.evaluate.contrasts import BEYOND, CELLS, compared
from qsched_edge.evaluate.text import text_table
from qsched_edge.intervals import interval, paired_difference
from qsched_edge.jaq.distances import flat
from qsched_edge.jaq.frechet import Frechet, Gaussian
from qsched_edge.jaq.judges import Look
from qsched_edge.jaq.panel import Panel, panel_of
from qsched_edge.jaq.settings import JudgeSource

CONCEPTS = "concepts:models/emoji-evaluator"
FRECHET = Frechet(Gaussian(np.zeros(6), np.eye(6)))


def cell(rng: np.random.Generator, shift: float) -> Cell:
    """What two judges said of twenty prompts with three seeds each."""
    paired, concepts = ({m: rng.normal(shift, 1.0, 60) for m in names} for names in (("psnr",), ("top1", "top5")))
    features = rng.normal(shift, 1.0, (60, 6))
    return Cell({"paired": Look(paired), CONCEPTS: Look(concepts, features)}, np.zeros((1, 4, 4, 3), np.uint8))


@pytest.fixture(scope="module")
def cells() -> dict[str, Cell]:
    rng = np.random.default_rng(0)
    return {name: cell(rng, shift) for name, shift in zip(CELLS, (0.0, 0.5, 0.2, 1.5), strict=True)}


@pytest.fixture(scope="module")
def panel() -> Panel:
    """The real judges, but for the pictures behind the Fréchet distance."""
    found = panel_of(("paired", CONCEPTS), Recipe("x", "x", "x", "x", (4,), 0.0, folder=ROOT), JudgeSource())
    concepts = found.judges[CONCEPTS]
    concepts.distances = {"frechet": replace(concepts.distances["frechet"], reference=FRECHET)}  # type: ignore
    return found


def values(cell: Cell) -> dict[str, np.ndarray]:
    return {m: v.reshape(20, 3) for look in cell.looks.values() for m, v in look.values.items()}


def test_calibrations_gains_are_paired_over_all_four_cells(cells: dict[str, Cell], panel: Panel) -> None:
    """Against the gains computed prompt by prompt, and the distance on each resample by itself."""
    full, full_calibrated, plain, calibrated = cells.values()
    report = compared(cells, panel, 20)
    found = report["calibration_gains"]
    for m in ("psnr", "top1", "top5"):
        gains = {"full precision": (full_calibrated, full), "quantized": (calibrated, plain)}
        each = {name: values(after)[m] - values(before)[m] for name, (after, before) in gains.items()}
        for name, gain in each.items():
            expected = paired_difference(gain, 0 * gain, seed=0)
            assert list(found[name][m].values()) == pytest.approx([expected.estimate, expected.low, expected.high])
        expected = paired_difference(each["quantized"], each["full precision"], seed=0)
        assert list(found[BEYOND][m].values()) == pytest.approx([expected.estimate, expected.low, expected.high])

    def beyond(rows: np.ndarray) -> float:
        features = [c.looks[CONCEPTS].features.reshape(20, 3, 6) for c in (calibrated, plain, full_calibrated, full)]  # type: ignore[union-attr]
        d = [FRECHET(flat(f[rows])) for f in features]
        return d[0] - d[1] - d[2] + d[3]

    expected = interval(beyond, 20, 0, 200)
    assert list(found[BEYOND]["frechet"].values()) == pytest.approx([expected.estimate, expected.low, expected.high])
    assert found["quantized"] == report["differences"][CELLS[3]]
    assert set(report["judges"]["measures"]) == {"psnr", "top1", "top5", "frechet"}


def test_a_cell_is_the_same_after_it_was_stored(tmp_path: Path) -> None:
    stored = cell(np.random.default_rng(5), 0.1)
    stored.save(tmp_path / "cell.npz")
    found = Cell.load(tmp_path / "cell.npz")
    assert set(found.looks) == set(stored.looks)
    for name, look in stored.looks.items():
        assert set(found.looks[name].values) == set(look.values)
        assert all((found.looks[name].values[m] == v).all() for m, v in look.values.items())
    assert (found.looks[CONCEPTS].features == stored.looks[CONCEPTS].features).all()
    assert found.looks["paired"].features is None


def test_judges_compare_with_full_precisions_pictures_of_the_same_noise(
    bundles: dict[int, Path], tmp_path: Path
) -> None:
    """PSNR of the report against the samplers' own pictures; a batch's end falls between two seeds of one prompt."""
    samplers = [Sampler.from_pretrained(bundles[bits], threads=1) for bits in (32, 4)]
    prompts, stock = tuple(f"a cat, number {i}" for i in range(9)), open_bundle(bundles[4]).stock(4)
    panel = panel_of(("paired",), Recipe("x", "x", "x", "x", (4,), 0.0), JudgeSource())
    asked = Asked(panel, prompts, 2, 3)
    for name in ("full", "quantized"):
        (tmp_path / name).mkdir()
    write_cell(samplers[0], stock, tmp_path / "full", asked, lambda n: None)
    write_cell(samplers[1], stock, tmp_path / "quantized", asked, lambda n: None, beside=tmp_path / "full")
    found = Cell.load(tmp_path / "quantized/cell.npz")
    seeds = [noise.reporting(s, p) for p in range(9) for s in range(2)]
    texts = [prompt for prompt in prompts for _ in range(2)]
    full, quantized = (s(texts, seed=seeds, num_inference_steps=4) for s in samplers)
    errors = ((full.images / 255 - quantized.images / 255) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found.looks["paired"].values["psnr"], -10 * np.log10(errors), rtol=1e-3)
    latents = ((full.latents - quantized.latents) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found.looks["paired"].values["latent_error"], latents, rtol=1e-3)
    assert found.pictures.shape[0] == 3
    own = Cell.load(tmp_path / "full/cell.npz").looks["paired"].values
    np.testing.assert_allclose(own["ssim"], 1.0)


def test_a_report_of_other_steps_with_channels_and_a_bias(
    bundles: dict[int, Path], recipe: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    channels = Coefficients(np.linspace(0.9, 1.1, 8).reshape(2, 4), np.ones(2), np.linspace(0, 0.07, 8).reshape(2, 4))
    write_schedule(folder, replace(open_bundle(folder).stock(2), coefficients=channels), {})
    arguments = ("evaluate", folder, "-o", tmp_path / "report", "--model", recipe, "--reference", bundles[32])
    refused = cli(*arguments, "--steps", 9)
    assert refused.stderr.strip() == "error: no schedule for 9 steps: this bundle has [1, 2, 3, 4, 5, 6, 7, 8]"
    done = cli(*arguments, "--count", 2, "--seeds", 1, "--steps", 2, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["steps"] == 2
    assert report["coefficients"] == coefficients_json(channels)
    assert report["cells"][CELLS[2]] != report["cells"][CELLS[3]]
    page = (tmp_path / "report/report.html").read_text()
    assert "<tr><th>bias</th><td>[0.0000 0.0100 0.0200 0.0300]</td><td>[0.0400 0.0500 0.0600 0.0700]</td></tr>" in page
    assert "<tr><th>c<sub>eps</sub></th><td>1.0000</td><td>1.0000</td></tr>" in page
    assert "[0.9000 0.9286 0.9571 0.9857]" in page
    assert page.index("What calibration gains") < page.index(BEYOND) < page.index("<summary>The schedule")
    assert f"  {BEYOND}, top-5: " in text_table(report)


def test_cells_take_as_many_steps_as_their_coefficients(bundles: dict[int, Path]) -> None:
    sampler = Sampler.from_pretrained(bundles[4], threads=1)
    assert manifests.read(bundles[4]).default_steps == 4
    expected = sampler(["a cat"], seed=[3], num_inference_steps=2).latents
    assert (last_latents(sampler, ["a cat"], [3], open_bundle(bundles[4]).stock(2)) == expected).all()
