"""`qsched-edge models`: what the recipes' models weigh, against what BENCHMARKS.md has measured of whole bundles."""

import json
import re

import pytest
from conftest import ROOT, cli

from qsched_edge.checkpoint.figures import figures_of, steps_of
from qsched_edge.checkpoint.recipes import shipped_recipes

BUNDLES = {"flux1-schnell": 0, "sdxl-turbo": 1, "sd-turbo": 2, "lcm-dreamshaper-v7": 3}  # columns of the table


@pytest.mark.parametrize("name", BUNDLES)
def test_computed_bytes_are_those_of_the_measured_bundles(name: str) -> None:
    text = (ROOT / "BENCHMARKS.md").read_text("utf-8")
    (row,) = re.findall(r"^\| bundle: FP16, stored \|(.*)\|$", text, re.MULTILINE)
    measured = float(re.findall(r", ([\d.]+) GB", row)[BUNDLES[name]])
    found = figures_of(shipped_recipes()[name])
    assert found
    assert found.w4_bytes / 1e9 == pytest.approx(measured, rel=0.02)


def test_the_list_of_models_fits_a_narrow_terminal_and_has_every_recipe() -> None:
    done, as_json = cli("models"), cli("models", "--json")
    assert done.returncode == as_json.returncode == 0, done.stderr + as_json.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["name", "licence", "steps", "parameters", "at", "4", "bits", "memory"]
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    rows = {row["name"]: row for row in json.loads(as_json.stdout)}
    assert rows["flux2-klein-4b"]["steps"] == [4]
    assert rows["flux2-klein-4b"]["backbone_parameters"] == pytest.approx(3.9e9, rel=0.05)
    assert rows["z-image-turbo"]["backbone_parameters"] == pytest.approx(6.15e9, rel=0.01)
    assert "w4_bytes" not in rows["ssd-1b-lcm"], "its architecture is only in the checkpoint"


@pytest.mark.parametrize(
    ("name", "steps"),
    [("sdxl", (25,)), ("sd15", (25,)), ("lcm-lora-sdxl", (4,)), ("pcm-sd15", (4,)), ("flux1-schnell", (4,)),
     ("sdxl-turbo", (1, 4)), ("sdxl-lightning-8step", (8,)), ("ssd-1b-lcm", (4,))],
)  # fmt: skip
def test_steps_are_the_recipes_or_the_familys(name: str, steps: tuple[int, ...]) -> None:
    assert steps_of(shipped_recipes()[name]) == steps
