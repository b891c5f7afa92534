"""A new user's first commands, with no option beyond the model, and the commands that the documents show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import families
import pytest
from conftest import ROOT
from hub_server import ask_here, serving
from test_docs import commands_in

from benchmarks import trials
from qsched_edge.jaq import hps
from qsched_edge.jaq.scorers import DEFAULT_SCORER, HPS


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A hub with the default scorers, and empty caches."""
    (tmp_path / "hub").mkdir()
    monkeypatch.setattr(hps, "ARCHITECTURE", hps.ARCHITECTURE)  # which `write_scorers` changes
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache/xdg"))
    trials.write_scorers(tmp_path / "hub")
    with serving(tmp_path / "hub") as hub, trials.small_flux():
        ask_here(hub, tmp_path / "cache", monkeypatch)
        yield tmp_path


def test_a_single_file_goes_the_whole_way_with_nothing_but_its_name(place: Path) -> None:
    """Quick: with few prompts. What the file lacks, and the scorers, come from the hub."""
    trials.write_model("sd-turbo", place)
    row = trials.tried("sd-turbo", "single file", place, few=True)
    assert row.finished, row.fault
    assert json.loads((place / "work/report/report.json").read_text())["cells"]
    assert (place / "work/apple.png").read_bytes().startswith(b"\x89PNG")
    assert {folder.name for folder in (place / "cache").glob("models--*")} == {
        f"models--{name.replace('/', '--')}" for name in (trials.BASES["sd-turbo"], DEFAULT_SCORER)
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd-turbo", "lcm", "sdxl-turbo", "sd3-turbo", "flux1-schnell"])
def test_every_family_goes_the_whole_way_in_every_form(family: str, place: Path) -> None:
    trials.write_model(family, place)
    rows = [trials.tried(family, form, place, few=True) for form in trials.forms_of(family)]
    assert [row.fault for row in rows if not row.finished] == []


def test_the_page_has_every_trial_and_all_of_them_finished() -> None:
    page = (ROOT / "docs/trials.md").read_text("utf-8").split(trials.BEGIN)[1].split(trials.END)[0]
    families = ("sd-turbo", "lcm", "sdxl-turbo", "sd3-turbo", "flux1-schnell")
    for family in families:
        for form in trials.forms_of(family):
            (line,) = (line for line in page.splitlines() if line.startswith(f"| {family} | {form} |"))
            assert line.endswith("| all finished |")


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/judges.md"])
def test_commands_of_the_documents_run(document: str, place: Path, bundles: dict[int, Path]) -> None:
    """As they are written, but for the number of prompts; the hub has miniatures under the models' names."""
    pipeline = trials.builders()["sdxl-turbo"]()
    pipeline.register_modules(vae=families.vae(levels=4))  # as many as the model's own: its recipe asks for 512 pixels
    families.save(pipeline, place / "hub/stabilityai/sdxl-turbo")
    shutil.copytree(place / "hub" / DEFAULT_SCORER, place / "hub/yuvalkirstain/PickScore_v1")
    shutil.copytree(place / "hub" / DEFAULT_SCORER, place / "my-clip")
    work = place / "work"
    shutil.copytree(bundles[4], work / "bundle")
    shutil.copytree(bundles[32], work / "unjudged-w32")
    shutil.copyfile(place / "hub" / HPS, work / Path(HPS).name)
    for words in commands_in(document):
        if find_spec("pyiqa") is None and any("pyiqa" in word for word in words):
            continue  # an extra of its own
        assert trials.called([*words, *trials.FEW.get(words[0], [])], work) == "", words
