"""A new user's first commands, with no option beyond the model, and the commands that the documents show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
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


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/judges.md"])
def test_commands_of_the_documents_run(document: str, place: Path, bundles: dict[int, Path]) -> None:
    """As they are written, but for the number of prompts; the hub has miniatures under the models' names."""
    trials.write_model("sdxl-turbo", place)
    shutil.copytree(place / "models/sdxl-turbo", place / "hub/stabilityai/sdxl-turbo")
    shutil.copytree(place / "hub" / DEFAULT_SCORER, place / "hub/yuvalkirstain/PickScore_v1")
    shutil.copytree(place / "hub" / DEFAULT_SCORER, place / "my-clip")
    work = place / "work"
    shutil.copytree(bundles[4], work / "bundle")
    shutil.copytree(bundles[32], work / "unjudged-w32")
    shutil.copyfile(place / "hub" / HPS, work / Path(HPS).name)
    for words in commands_in(document):
        assert trials.called([*words, *trials.FEW.get(words[0], [])], work) == "", words
