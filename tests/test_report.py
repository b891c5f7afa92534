"""The report's numbers and tables: calibration's gain on each network, a bias and channels, another step count."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import cli
from qsched_runtime import Coefficients, Sampler
from qsched_runtime import manifest as manifests

from qsched_edge.bundle.write import coefficients_json, write_coefficients
from qsched_edge.evaluate.cells import Cell, last_latents, metric_names
from qsched_edge.evaluate.contrasts import BEYOND, CELLS, compared, differences
from qsched_edge.evaluate.run import text_table
from qsched_edge.intervals import interval, paired_difference
from qsched_edge.jaq.frechet import Frechet, Gaussian, flat


def cell(rng: np.random.Generator, shift: float) -> Cell:
    metrics = {m: rng.normal(shift, 1.0, (20, 3)) for m in metric_names()}
    return Cell(metrics, rng.normal(shift, 1.0, (20, 3, 6)), np.zeros((1, 4, 4, 3), np.uint8))


@pytest.fixture(scope="module")
def cells() -> dict[str, Cell]:
    rng = np.random.default_rng(0)
    return {name: cell(rng, shift) for name, shift in zip(CELLS, (0.0, 0.5, 0.2, 1.5), strict=True)}


FRECHET = Frechet(Gaussian(np.zeros(6), np.eye(6)))


def test_calibrations_gains_are_paired_over_all_four_cells(cells: dict[str, Cell]) -> None:
    """Against the gains computed prompt by prompt, and the distance on each resample by itself."""
    full, full_calibrated, plain, calibrated = cells.values()
    found = compared(cells, FRECHET)["calibration_gains"]
    for m in metric_names():
        gains = {"full precision": (full_calibrated, full), "quantized": (calibrated, plain)}
        each = {name: after.metrics[m] - before.metrics[m] for name, (after, before) in gains.items()}
        for name, gain in each.items():
            expected = paired_difference(gain, 0 * gain, seed=0)
            assert list(found[name][m].values()) == pytest.approx([expected.estimate, expected.low, expected.high])
        expected = paired_difference(each["quantized"], each["full precision"], seed=0)
        assert list(found[BEYOND][m].values()) == pytest.approx([expected.estimate, expected.low, expected.high])

    def beyond(rows: np.ndarray) -> float:
        d = [FRECHET(flat(c.features[rows])) for c in (calibrated, plain, full_calibrated, full)]
        return d[0] - d[1] - d[2] + d[3]

    expected = interval(beyond, 20, 0, 200)
    assert list(found[BEYOND]["frechet"].values()) == pytest.approx([expected.estimate, expected.low, expected.high])
    assert found["quantized"] == compared(cells, FRECHET)["differences"][CELLS[3]]
    assert found["full precision"] == differences(full_calibrated, full, FRECHET)


def test_a_report_of_other_steps_with_channels_and_a_bias(
    bundles: dict[int, Path], recipe: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    channels = Coefficients(np.linspace(0.9, 1.1, 8).reshape(2, 4), np.ones(2), np.linspace(0, 0.07, 8).reshape(2, 4))
    write_coefficients(folder, 2, channels, {})
    arguments = ("evaluate", folder, "-o", tmp_path / "report", "--model", recipe, "--reference", bundles[32])
    refused = cli(*arguments, "--steps", 3)
    assert refused.stderr.strip() == "error: no schedule for 3 steps: this bundle has [2, 4]"
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
    assert page.index("What calibration gains") < page.index(BEYOND) < page.index("<h2>Coefficients")
    assert f"calibration, {BEYOND}: top-5 " in text_table(report)


def test_cells_take_as_many_steps_as_their_coefficients(bundles: dict[int, Path]) -> None:
    sampler = Sampler.from_pretrained(bundles[4], threads=1)
    assert manifests.read(bundles[4]).default_steps == 4
    expected = sampler(["a cat"], seed=[3], num_inference_steps=2).latents
    assert (last_latents(sampler, ["a cat"], [3], Coefficients.identity(2)) == expected).all()
