"""The evaluation: its distances against scipy, its intervals by simulation, its report end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from conftest import ROOT, cli

from qsched_edge.errors import MetricError
from qsched_edge.evaluate.classifier import Classifier
from qsched_edge.evaluate.frechet import Frechet, Gaussian
from qsched_edge.intervals import paired_difference


def test_frechet_agrees_with_scipys_matrix_square_root() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12)), rng.normal(1.0, 2.0, size=(200, 12))
    g, r = Gaussian.of(a), Gaussian.of(b)
    root = scipy.linalg.sqrtm(g.covariance @ r.covariance).real
    expected = ((g.mean - r.mean) ** 2).sum() + np.trace(g.covariance + r.covariance - 2 * root)
    assert Frechet(r)(a) == pytest.approx(expected, rel=1e-6)
    assert Frechet(r)(b) == pytest.approx(0.0, abs=1e-8)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng, truth, hits = np.random.default_rng(1), 0.3, 0
    for trial in range(200):
        before = rng.normal(size=60)
        found = paired_difference(before + truth + 0.5 * rng.normal(size=60), before, seed=trial)
        hits += found.low <= truth <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_pairing_keeps_a_prompts_seeds_together() -> None:
    rng = np.random.default_rng(2)
    per_prompt = rng.normal(size=(30, 1))
    many = paired_difference(per_prompt.repeat(50, axis=1), np.zeros((30, 50)), seed=0)
    one = paired_difference(per_prompt, np.zeros((30, 1)), seed=0)
    assert (many.low, many.high) == pytest.approx((one.low, one.high))  # copies of a seed bring no certainty


def test_labels_are_found_in_prompts() -> None:
    classifier = Classifier(ROOT / "models/emoji-evaluator")
    names = {i: n for n, i in classifier.labels.items()}
    assert names[classifier.label_of("a red apple, noto style")] == "red apple"
    assert names[classifier.label_of("an ear of corn, twemoji style, on a red background")] == "ear of corn"
    with pytest.raises(MetricError, match="names none of the evaluator's"):
        classifier.label_of("a philosophical treatise")


def test_report_holds_four_cells_with_intervals_and_pictures(
    bundles: dict[int, Path], recipe: Path, tmp_path: Path
) -> None:
    arguments = ("evaluate", bundles[4], "-o", tmp_path / "report", "--model", recipe, "--reference", bundles[32])
    done = cli(*arguments, "--count", 4, "--seeds", 2, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "report/report.json").read_text())
    cells = report["cells"]
    assert len(cells) == 4
    assert cells["quantized, c = 1"] == cells["quantized, calibrated"]  # not calibrated yet
    assert cells["full precision, c = 1"] != cells["quantized, c = 1"]
    same = report["differences"]["quantized, calibrated"]
    assert all(v == 0 for d in same.values() for v in d.values())
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 4 * 4  # pictures and differences
    assert "http" not in page.split("<table>", 1)[1]
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["report.html", "report.json"]
    assert report["sizes"]["bundle"]["bytes"] < report["sizes"]["bundle"]["fp16_bytes"]
    again = cli(*arguments, "--count", 4, "--seeds", 2)
    assert again.returncode == 1
    assert "--force" in again.stderr
