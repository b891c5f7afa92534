"""What the journal remembers reaches the candidate it belongs to, and an older bundle's journal reaches nobody."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from qsched_runtime import Coefficients, ScheduleTable

from qsched_edge.bundle.learned import LearnedSchedule
from qsched_edge.bundle.opened import open_bundle
from qsched_edge.bundle.write import write_schedule
from qsched_edge.calibrate.draws import Draws
from qsched_edge.calibrate.jobs import Job
from qsched_edge.calibrate.pictures import Pictures
from qsched_edge.calibrate.results import Done, Scored
from qsched_edge.calibrate.run import calibrate
from qsched_edge.calibrate.search import Proposal
from qsched_edge.calibrate.session import open_session
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.calibrate.verdicts import gains_of
from qsched_edge.errors import RequestError
from qsched_edge.jaq.loss import Loss, Scores
from qsched_edge.jaq.panel import Panel
from qsched_edge.work.journal import Journal
from qsched_edge.work.lock import locked

TABLE = ScheduleTable(*[np.array([9.0, 5.0]) for _ in range(7)], 1.0)  # type: ignore[arg-type]


@given(st.data())
def test_a_damaged_journal_is_computed_again_and_never_believed(data: st.DataObject) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name:
        folder = Path(name) / "journal"
        first = Journal(folder, {"a": 1})
        for key in range(5):
            first.recall(key, lambda key=key: [key / 7, "text"])
        file = folder / data.draw(st.sampled_from(["journal.jsonl", "identity.json"]))
        whole = bytearray(file.read_bytes())
        start = data.draw(st.integers(0, len(whole) - 1))
        damage = data.draw(st.binary(min_size=1, max_size=9))
        whole[start : start + data.draw(st.integers(0, 9))] = damage
        file.write_bytes(bytes(whole))
        again = Journal(folder, {"a": 1})
        for key in range(5):
            assert again.recall(key, lambda key=key: [key / 7, "text"]) == [key / 7, "text"]
        assert all(key in Journal(folder, {"a": 1}) for key in range(5))


def test_damaged_lines_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = Journal(tmp_path / "journal", {})
    first.recall("a", lambda: 0.125)
    first.recall("b", lambda: 2.0)
    path = tmp_path / "journal/journal.jsonl"
    path.write_text(path.read_text().replace("0.125", "0.225"))  # reads well, and is wrong
    assert Journal(tmp_path / "journal", {}).recall("b", lambda: 3.0) == 2.0
    assert "1 damaged lines are computed again" in capsys.readouterr().err
    assert Journal(tmp_path / "journal", {}).recall("a", lambda: 0.125) == 0.125
    assert capsys.readouterr().err == ""


class Echo:
    """An engine whose every score is the candidate's first c_x; all jobs are taken at once, as Ray takes them."""

    workers = 2

    def __init__(self) -> None:
        self.jobs = 0

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        self.jobs += len(jobs)
        for job in jobs:
            values = np.full(job.draws.sizes[job.batch], float(job.schedule.coefficients.c_x[0]))
            yield Done(Scored(Scores({"text_image": values, "quality": values})), 0.0)

    def close(self) -> None: ...


def echo(folder: Path, prompts: int = 10) -> Pictures:
    return Pictures(Echo(), Journal(folder, {}), Draws(tuple(map(str, range(prompts))), 0))


def candidate(value: float) -> LearnedSchedule:
    return LearnedSchedule(TABLE, Coefficients(np.full(2, value), np.ones(2)))


@given(st.lists(st.lists(st.sampled_from([0.9, 1.0, 1.1, 1.2]), max_size=6), max_size=3))
def test_every_candidate_gets_its_own_scores_however_often_it_is_asked_for(questions: list[list[float]]) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        pictures = echo(Path(folder) / "journal")
        for values in questions:
            found = [s["text_image"] for s, _ in pictures.scores([candidate(v) for v in values])]
            assert [list(f) for f in found] == [[v] * 10 for v in values]
        assert pictures.engine.jobs == 2 * len({v for values in questions for v in values})  # type: ignore[attr-defined]


def test_a_proposal_that_is_identity_leaves_the_next_ones_verdict_alone(tmp_path: Path) -> None:
    proposals = [Proposal(str(v), candidate(v), 0.0, 1, 1, 1.0, False, 0, {}, ()) for v in (1.0, 1.2, 1.2, 1.1)]
    found, *_ = gains_of(
        candidate(1.0),
        proposals,
        echo(tmp_path / "journal"),
        Loss({"text_image": 1.0}, {"text_image": 0.0}, {"text_image": 1.0}),
        Panel({}),
        seed=0,
    )
    np.testing.assert_allclose([g.loss.estimate for g in found], [0.0, 0.2, 0.2, 0.1], atol=1e-12)


def test_one_process_at_a_time_calibrates_a_bundle(bundles: dict[int, Path], recipe: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
    before, beside = (folder / "qsched.json").read_bytes(), tmp_path / ".bundle.calibration"
    beside.mkdir()
    (beside / "journal.jsonl").write_text("the other's")
    code = (
        "import sys; from pathlib import Path; from qsched_edge.work.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        for _ in range(2):  # to be refused takes nothing away
            with pytest.raises(RequestError, match="another process is at work on"):
                calibrate(folder, CalibrationSettings(), None, None, str(recipe), quiet=True)
        assert (beside / "journal.jsonl").read_text() == "the other's"
        other.kill()
    assert (folder / "qsched.json").read_bytes() == before
    with locked(folder):  # what a killed process held is free
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == [".bundle.calibration", "bundle"]


CHANGES = {
    "decoder": lambda raw: raw["files"][-1].update(sha256="0" * 64),
    "guidance": lambda raw: raw["guidance"].update(default=raw["guidance"]["default"] + 1),
    "schedule": lambda raw: raw["schedules"]["4"].update(init_noise_sigma=2.0),
}


def stamp_of(
    folder: Path, recipe: Path, settings: CalibrationSettings, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """What stands in the journal of a calibration that would be made now; nothing is drawn."""
    nothing = [(Scores({}), 0.0)]
    monkeypatch.setattr(Pictures, "scores", lambda self, candidates: iter(nothing))
    open_session(open_bundle(folder), settings, None, None, str(recipe), journal).engine.close()
    return (journal / "identity.json").read_text()


@pytest.mark.parametrize("part", CHANGES)
def test_another_bundle_never_meets_an_older_ones_journal(
    part: str, bundles: dict[int, Path], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, journal = Path(shutil.copytree(bundles[4], tmp_path / "bundle")), tmp_path / "journal"
    first = stamp_of(folder, recipe, CalibrationSettings(), journal, monkeypatch)
    bundle = open_bundle(folder)
    other = replace(bundle.stock(4).table, timesteps=np.array([999.0, 900, 800, 700]))
    learned = LearnedSchedule(other, Coefficients(np.full(4, 1.1), np.ones(4), np.full(4, 0.1)))
    write_schedule(folder, learned, {"a": "record"})
    assert (
        stamp_of(folder, recipe, CalibrationSettings(), journal, monkeypatch) == first
    )  # coefficients are no part of it
    raw = json.loads((folder / "qsched.json").read_text())
    stock = raw["schedules"]["4"].pop("stock")
    raw["schedules"]["4"].update(stock)  # no longer another than the stock schedule
    CHANGES[part](raw)
    (folder / "qsched.json").write_text(json.dumps(raw))
    assert stamp_of(folder, recipe, CalibrationSettings(), journal, monkeypatch) != first


def test_another_reference_or_autoencoder_starts_anew(
    bundles: dict[int, Path], miniature: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path(shutil.copytree(bundles[32], tmp_path / "full"))
    model = Path(shutil.copytree(miniature, tmp_path / "miniature"))
    mine = tmp_path / "mini.toml"
    mine.write_text(recipe.read_text())
    settings = CalibrationSettings(reference=full)
    stamps = [stamp_of(bundles[4], mine, settings, tmp_path / "journal", monkeypatch)]
    with (model / "vae/diffusion_pytorch_model.safetensors").open("ab") as handle:
        handle.write(b" ")
    stamps.append(stamp_of(bundles[4], mine, settings, tmp_path / "journal", monkeypatch))
    raw = json.loads((full / "qsched.json").read_text())
    raw["files"][0]["sha256"] = "0" * 64
    (full / "qsched.json").write_text(json.dumps(raw))
    stamps.append(stamp_of(bundles[4], mine, settings, tmp_path / "journal", monkeypatch))
    assert len(set(stamps)) == 3
