"""The evaluation: its distances against scipy, its intervals by simulation, its report end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from conftest import ROOT, cli
from markupsafe import escape

from qsched_edge.ablate.judged import closed
from qsched_edge.calibrate.registries import SEARCHES
from qsched_edge.errors import MetricError
from qsched_edge.intervals import interval, paired_difference
from qsched_edge.jaq.concepts import Classifier
from qsched_edge.jaq.frechet import Frechet, Gaussian

GROUPS = ("searches at equal passes", "loss", "columns", "fitting prompts")


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


def test_a_distance_that_grows_with_repeated_rows_lies_in_its_interval() -> None:
    rng, frechet = np.random.default_rng(3), Frechet(Gaussian(np.zeros(24), np.eye(24)))
    for trial in range(10):
        wide, narrow = 3 * rng.normal(size=(40, 24)), rng.normal(size=(40, 24))
        found = interval(lambda rows, w=wide, n=narrow: frechet(w[rows]) - frechet(n[rows]), 40, trial, 200)  # type: ignore[misc]
        middle = (found.low + found.high) / 2
        assert abs(middle - found.estimate) < 0.25 * (found.high - found.low)


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
    assert page.count("data:image/png;base64,") == 2 * 4  # full precision's and the quantized model's
    assert "http:" not in page
    assert "https:" not in page
    assert escape(report["sentence"]) in page
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["report.html", "report.json"]
    assert report["sizes"]["bundle"]["bytes"] < report["sizes"]["bundle"]["fp16_bytes"]
    again = cli(*arguments, "--count", 4, "--seeds", 2)
    assert again.returncode == 1
    assert "--force" in again.stderr


def test_evaluation_leaves_out_what_is_not_at_hand(bundles: dict[int, Path], recipe: Path, tmp_path: Path) -> None:
    """A model without scorer and evaluator: the pictures are compared with full precision's; one prompt will do."""
    bare = recipe.with_name("bare.toml")
    lines = recipe.read_text().splitlines()
    bare.write_text("\n".join(line for line in lines if not line.startswith(("scorer", "quality", "evaluator"))))
    arguments = ("evaluate", bundles[4], "--model", bare, "--reference", bundles[32], "--seeds", 1, "--quiet")
    done = cli(*arguments, "-o", tmp_path / "two", "--count", 2, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["judges"]["measures"]) == {"psnr", "ssim", "latent_error"}
    (line,) = report["judges"]["left_out"]
    assert line.startswith("terms: left out (laion/CLIP-ViT-B-32-laion2B-s34B-b79K is not in the hub's cache")
    assert "hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K)" in line
    assert done.stderr.splitlines() == [line]
    assert escape(line) in (tmp_path / "two/report.html").read_text()
    assert report["cells"]["full precision, c = 1"]["ssim"] == 1.0
    assert report["cells"]["quantized, c = 1"]["psnr"] < 58.9
    done = cli(*arguments, "-o", tmp_path / "one", "--count", 1)
    assert done.returncode == 0, done.stderr
    assert "PSNR to full precision" in done.stdout
    report = json.loads((tmp_path / "one/report.json").read_text())
    psnr = report["differences"]["full precision, c = 1"]["psnr"]
    assert psnr["estimate"] > 0
    assert psnr["low"] is psnr["high"] is None  # one prompt gives no interval


def test_ablation_reports_every_search_loss_column_and_prompt_count(
    bundles: dict[int, Path], recipe: Path, tmp_path: Path
) -> None:
    command = (
        "ablate", bundles[4], "-o", tmp_path / "report", "--model", recipe, "--reference", bundles[32], "--points", 3,
        "--budget", 60, "--iterations", 2, "--fit-prompts", 3, "--heldout-prompts", 4, "--threads", 1,
        "--judge-prompts", 4, "--judge-seeds", 1,
    )  # fmt: skip
    done = cli(*command, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "report/report.json").read_text())
    (section,) = report["bundles"].values()
    groups = {group: [r["name"] for r in section["rows"] if r["group"] == group] for group in GROUPS}
    assert set(groups["searches at equal passes"]) == set(SEARCHES)
    assert groups["loss"] == ["jaq", "text-image", "quality", "reference"]
    assert groups["fitting prompts"] == ["2", "3"]
    rows = {(r["group"], r["name"]): r for r in section["rows"]}
    assert all(r["passes"] <= 60 for r in section["rows"] if r["search"] != "grid")
    assert rows["searches at equal passes", "grid"]["passes"] > 60  # the grid runs to its end
    assert rows["columns", "c_x only"]["c_eps"] == [1.0] * 4
    assert rows["columns", "c_eps only"]["c_x"] == [1.0] * 4
    assert rows["columns", "c_x and c_eps"]["gains"] == rows["loss", "jaq"]["gains"]  # one search, two questions
    assert np.shape(section["surface"]["mean"]) == (3, 3)
    assert section["surface"]["mean"][1][1] == pytest.approx(0.0, abs=1e-9)  # identity in the middle
    judged = {(r["precision"], r["name"]): r for r in section["judged"]}
    assert len(judged) == 2 + len(SEARCHES) + 4 + 2  # c = 1 and two rows on both networks
    assert judged["full precision", "c = 1"]["differences"]["frechet"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    gap = judged["quantized", "c = 1"]["differences"]["jaq"]["estimate"]
    found = judged["quantized", "loss: jaq"]
    base = judged["quantized", "c = 1"]["means"]["jaq"]
    assert gap == pytest.approx(base - judged["full precision", "c = 1"]["means"]["jaq"])
    assert found["differences"]["jaq"]["estimate"] == pytest.approx(found["means"]["jaq"] - base)
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 3 + 4 * 6  # plots, light and dark; pictures of six columns
    assert f"of {len(SEARCHES)} searches, " in page
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["report.html", "report.json"]


def test_the_share_of_a_gap_that_is_closed() -> None:
    rng = np.random.default_rng(0)
    was = 10 + rng.normal(0, 0.01, 201)
    assert closed(was - 1.5, was, was - 3)["estimate"] == pytest.approx(0.5)
    assert closed(was + 3, was, was - 3)["estimate"] == pytest.approx(-1.0)
    noise = rng.normal(0, 1, 201)
    assert closed(was, was, was + noise) is None  # no gap to speak of


def test_a_full_precision_bundle_is_its_own_reference(bundles: dict[int, Path], recipe: Path, tmp_path: Path) -> None:
    done = cli(
        "ablate", bundles[32], "-o", tmp_path / "report", "--model", recipe, "--reference", bundles[32], "--points", 2,
        "--iterations", 2, "--fit-prompts", 3, "--heldout-prompts", 4, "--threads", 1, "--rows", "losses",
        "--judge-prompts", 4, "--judge-seeds", 1, "--json", "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (section,) = json.loads(done.stdout)["bundles"].values()
    assert [r["name"] for r in section["rows"]] == ["jaq", "text-image", "quality"]
    assert {r["precision"] for r in section["judged"]} == {"full precision"}
