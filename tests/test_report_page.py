"""The report's page: its sentence and warnings, what a browser is allowed, and how it is used without a mouse."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from qsched_edge.evaluate.contrasts import CELLS
from qsched_edge.evaluate.effects import Effect
from qsched_edge.evaluate.page import page
from qsched_edge.evaluate.sentence import sentence, warnings
from qsched_edge.evaluate.text import text_table
from qsched_edge.jaq.judges import Reading

FULL, _, PLAIN, CALIBRATED = CELLS
ACCURACY = Reading("Concept accuracy, top 1", "top-1", True, "{:.1%}", "{:+.1%}")
FRECHET = Reading("Fréchet distance of concept features", "Fréchet", False, "{:.2f}", "{:+.2f}")
MEASURES = {
    "psnr": {**asdict(Reading("PSNR to full precision, dB", "PSNR", True, "{:.2f}", "{:+.2f}")), "judge": "paired"},
    "top1": {**asdict(ACCURACY), "judge": "concepts"},
    "frechet": {**asdict(FRECHET), "judge": "concepts"},
    "text_image": {**asdict(Reading("TC, text-image similarity", "TC")), "judge": "terms"},
}
MEASURES["psnr"]["beside"] = True
VALUES = {"psnr": 27.3, "top1": 0.9, "frechet": 31.0, "text_image": 0.8}
TRAPS = '<script>alert(1)</script> & "quotes"'
PROMPTS = [f"a red apple {i}{TRAPS if i == 0 else ''}" for i in range(9)]


def change(top1: float = 0.0, frechet: float = 0.0, psnr: float = -9.0) -> dict[str, dict[str, float]]:
    """Estimates with intervals of +-0.01 for the accuracy, +-0.5 for the distance."""
    halves = {"psnr": (psnr, 1.0), "top1": (top1, 0.01), "frechet": (frechet, 0.5), "text_image": (0.1, 0.01)}
    return {m: {"estimate": e, "low": e - half, "high": e + half} for m, (e, half) in halves.items()}


def report_of(gain: dict[str, Any], full: dict[str, Any], count: int = 64, **record: Any) -> dict[str, Any]:
    """A report of a calibration that gains `gain` where full precision is better by `full`."""
    calibration = {
        "shipped": "free", "chosen": "free", "sentence": "free gains on the loss and on top1, and is worse by no judge",
        "settings": {"accept": "gate"}, "c_z": [1.0, 1.0, 0.9, 1.0], "warnings": ["c_eps lies on the box's edge"],
        "loss": {"name": "jaq", "k": 2.0},
        "candidates": [{"search": "free", "passes": 2400, "heldout_gain": {"estimate": 0.6, "low": 0.5, "high": 0.7}}],
    }  # fmt: skip
    found = {
        "bundle": "emoji-w4", "scheme": "W4A16", "steps": 4, "seeds": 1,
        "stock_timesteps": [999.0, 759.0, 499.0, 259.0], "timesteps": [999.0, 868.0, 849.0, 699.0],
        "coefficients": {"c_x": [1.0] * 4, "c_eps": [1.0, 1.0, 1.0, 1.2]},
        "calibration": {**calibration, **record},
        "prompts": {"file": "heldout.txt", "sha256": "ab" * 32, "count": count},
        "judges": {"measures": MEASURES, "left_out": ["lpips: left out (pyiqa is not installed)"]},
        "cells": {cell: dict(VALUES) for cell in CELLS},
        "differences": {FULL: full, CELLS[1]: full, CALIBRATED: gain},
        "calibration_gains": {"full precision": gain, "quantized": gain, "quantized - full precision": change()},
        "sizes": {
            "components": {"unet": {"bytes": 5, "fp16_bytes": 15, "ratio": 3.0}},
            "bundle": {"bytes": 10, "fp16_bytes": 29, "ratio": 2.9},
        },
        "seconds_per_image": {"quantized": 0.2}, "versions": {"python": "3.12"},
    }  # fmt: skip
    return {"sentence": sentence(found), "warnings": warnings(found), **found}


GOOD = report_of(change(top1=0.03, frechet=-2.0), change(top1=0.05))
WORSE = report_of(change(frechet=2.45), change(), settings={"accept": "loss"})
IDENTITY = report_of(change(), change(), shipped="identity", sentence="free gains on no judge")


def plain() -> dict[str, Any]:
    found = report_of(change(), change())
    found["calibration"] = {}
    return found


def without_judges() -> dict[str, Any]:
    found = json.loads(json.dumps(GOOD))
    for name in ("top1", "frechet"):
        for values in (*found["differences"].values(), *found["calibration_gains"].values(), *found["cells"].values()):
            del values[name]
    found["judges"]["measures"] = {m: r for m, r in MEASURES.items() if m not in ("top1", "frechet")}
    return found


def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {cell: rng.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8) for cell in CELLS}


def test_an_effect_is_better_or_worse_only_where_its_whole_interval_is() -> None:
    less, more = MEASURES["frechet"], MEASURES["top1"]
    assert Effect("m", less, -2.0, -3.0, -1.0).verdict == Effect("m", more, 2.0, 1.0, 3.0).verdict == 1
    assert Effect("m", less, 2.0, 1.0, 3.0).verdict == Effect("m", more, -2.0, -3.0, -1.0).verdict == -1
    assert Effect("m", less, -2.0, -3.0, 0.0).verdict == Effect("m", more, 0.1, -1.0, 1.2).verdict == 0
    assert Effect("m", more, 5.0, None, None).verdict == 0  # one prompt
    assert Effect("m", less, 2.0, 1.0, 4.0).gain == (-2.0, -4.0, -1.0)


def test_the_sentence_says_what_was_calibrated_whether_it_ships_what_won_and_what_quantization_cost() -> None:
    assert GOOD["sentence"] == (
        "emoji-w4 (W4A16, 4 steps) ships with other timesteps, amounts of noise and c_eps, which the judges of its "
        "gate have let through; on 64 held-out prompts judges find the pictures better by “Fréchet distance of concept "
        "features” (-2.00, 95 % interval -2.50 to -1.50) and 1 more; quantization cost “Concept accuracy, top 1” "
        "(-5.0%, 95 % interval -6.0% to -4.0%) at 2.90 times fewer bytes than FP16."
    )
    assert "the loss alone has let through" in WORSE["sentence"]
    assert "worse by “Fréchet distance of concept features” (+2.45, 95 % interval +1.95 to +2.95)" in WORSE["sentence"]
    assert "better" not in WORSE["sentence"]  # the loss's own term has gained, and is no judge
    assert IDENTITY["sentence"] == (
        "calibration of emoji-w4 (W4A16, 4 steps) found nothing that may ship and left the stock schedule (free gains "
        "on no judge); quantization cost nothing that a judge can tell at 2.90 times fewer bytes than FP16."
    )
    assert sentence(plain()).startswith("emoji-w4 (W4A16, 4 steps) has not been calibrated and draws with the stock")


def test_without_judges_nothing_is_claimed() -> None:
    found = without_judges()
    assert "no judge was at hand to say whether the pictures are better" in sentence(found)
    assert "quantized pictures have 27.30 of “PSNR to full precision, dB”" in sentence(found)
    assert any("No judge of pictures was at hand" in line for line in warnings(found))


def test_warnings_come_first_and_name_what_is_missing_or_worse() -> None:
    assert warnings(GOOD) == ["lpips: left out (pyiqa is not installed)", "Calibration: c_eps lies on the box's edge"]
    assert "What ships is judged worse" in warnings(WORSE)[0]
    assert "7 prompts: the intervals of so few say little." in warnings(report_of(change(), change(), count=7))
    html = page(GOOD, PROMPTS, pictures())
    assert html.index(GOOD["sentence"][:20]) < html.index("lpips: left out") < html.index("<main>")
    assert "Beware" not in page({**GOOD, "warnings": []}, PROMPTS, pictures())


class Tags(HTMLParser):
    """Every element with its attributes, and what stands in style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("style", "script"):
            self.inline.setdefault(self.found[-1][0], data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.mark.parametrize("report", [GOOD, WORSE, IDENTITY, plain(), without_judges()])
def test_a_page_asks_for_nothing_and_obeys_only_its_own_script(report: dict[str, Any]) -> None:
    tags = Tags(page(report, PROMPTS, pictures()))
    (policy,) = [m["content"] for m in tags.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(tags.inline[name].encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in str(policy)
        assert len(tags.of(name)) == 1  # what a prompt says stays text
    assert "default-src 'none'" in str(policy)
    for tag, attributes in tags.found:
        assert not {"href", "style", "srcset"} & set(attributes), tag
        assert not [a for a in attributes if a.startswith("on")], tag
        assert str(attributes.get("src", "data:")).startswith("data:")
    assert not re.search(r"url\(|@import", tags.inline["style"])


def test_pictures_are_of_one_size_and_none_is_shown_twice() -> None:
    three, two = (Tags(page(r, PROMPTS, pictures())).of("img") for r in (GOOD, IDENTITY))
    assert len(three) == 9 * 3  # the calibrated pictures of a stock schedule would be the quantized ones again
    assert len(two) == 9 * 2
    assert len({i["src"] for i in three}) == 27
    assert {(i["width"], i["height"]) for i in three} == {("8", "8")}
    assert three[0]["alt"] == f"{PROMPTS[0]}: full precision"
    assert three[1]["alt"] == f"{PROMPTS[0]}: quantized"
    assert three[-1]["alt"] == f"{PROMPTS[8]}: calibrated"


def test_numbers_are_folded_and_intervals_drawn() -> None:
    html = page(GOOD, PROMPTS, pictures())
    folds = Tags(html).of("details")
    assert len(folds) == 5
    assert not any("open" in f for f in folds)
    assert html.rindex("<table>") > html.index("<table>") > html.index("<details>")
    (row,) = re.findall(r"<li><div>Fréchet distance of concept features.*?</svg>", html, re.DOTALL)
    axis, quantization, calibration = re.findall(r'x1="([\d.]+)" x2="([\d.]+)"', row)
    assert axis == ("200", "200")
    assert float(quantization[0]) < 200 < float(quantization[1])  # cannot be told
    assert 200 < float(calibration[0]) < float(calibration[1]) <= 390  # less is better, so right
    assert "-2.00 [-2.50, -1.50] better" in html


def test_the_terminal_begins_with_the_same_sentence() -> None:
    text = text_table(GOOD)
    assert " ".join(text.split("\n\n")[0].split()) == GOOD["sentence"]
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 100


@pytest.mark.web
def test_a_reader_compares_pictures_by_keyboard_on_phone_and_desk(tmp_path: Path) -> None:
    """In a real browser: nothing is fetched or refused, nothing runs off the side, and reduced motion is respected."""
    file = tmp_path / "report.html"
    file.write_text(page(GOOD, PROMPTS, pictures()), "utf-8")
    job = {"page": str(file), "chromium": shutil.which("chromium")}
    command = ["node", str(ROOT / "tests/report_page.mjs")]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for opened in found.values():
        assert opened["requests"] == opened["complaints"] == []
    for name, width in (("dark", 1440), ("phone", 390)):
        layout = found[name]["layout"]
        assert layout["width"] <= width
        assert max(layout["pictures"]) - min(layout["pictures"]) < 1
        assert min(layout["pictures"]) > 160
    for name, turns in (("desk", ["0%", "100%"]), ("still", ["100%"])):
        played = found[name]["played"]
        assert played["slid"] == ["30%"] * 3
        assert (played["pressed"], played["released"]) == ("true", "false")
        assert played["turns"] == turns
        assert played["difference"] == 2
        assert played["swapped"]
        assert played["shown"]
