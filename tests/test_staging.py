"""Outputs appear whole or not at all, whatever a kill, a power cut or another process did to the work before."""

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from benchmarks.power_cuts import cut, traces
from qsched_edge.errors import OutputExistsError, QSchedError, RequestError
from qsched_edge.quantize.store import Packed, TensorStore
from qsched_edge.work import staging as stages
from qsched_edge.work.hashes import keep_only
from qsched_edge.work.journal import Journal
from qsched_edge.work.staging import Staging, write_json


def make(folder: Path) -> None:
    (folder / "a").write_text("whole")


def test_parts_survive_an_interruption_and_are_not_made_twice(tmp_path: Path) -> None:
    output, made = tmp_path / "out", []

    def second(folder: Path) -> None:
        made.append(1)
        (folder / "b").write_text("half")
        if len(made) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Staging(output, {"x": 1}, False) as staging:
        staging.part("first", make)
        staging.part("second", second)
    assert not output.exists()
    with Staging(output, {"x": 1}, False) as staging:
        staging.part("first", lambda folder: pytest.fail("made twice"))
        staging.part("second", second)
    assert sorted(p.relative_to(output).as_posix() for p in output.rglob("*")) == [
        "first",
        "first/a",
        "second",
        "second/b",
    ]
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"arguments": 3}', "\udc80"])
def test_a_damaged_stamp_starts_anew(damage: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), Staging(output, {"x": 1}, False) as staging:
        staging.part("first", make)
        raise KeyboardInterrupt
    (tmp_path / ".out.partial/stage.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
    made: list[Path] = []
    with Staging(output, {"x": 1}, False) as staging:
        staging.part("first", lambda folder: (made.append(folder), make(folder)))  # type: ignore[arg-type, func-returns-value]
    assert len(made) == 1


def test_other_arguments_start_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Staging(tmp_path / "out", {"x": 1}, False) as staging:
        staging.part("first", make)
        raise KeyboardInterrupt
    with Staging(tmp_path / "out", {"x": 2}, False) as staging:
        assert not (staging.folder / "first").exists()


def test_force_replaces_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with Staging(output, {}, False) as staging:
        staging.part("first", make)
    with pytest.raises(OutputExistsError, match="--force"):
        Staging(output, {}, False)
    with pytest.raises(RuntimeError), Staging(output, {"v": 2}, True) as staging:
        raise RuntimeError
    assert (output / "first/a").read_text() == "whole"
    with Staging(output, {"v": 2}, True) as staging:
        staging.part("second", make)
    assert [p.name for p in output.iterdir()] == ["second"]


def test_json_is_replaced_in_one_move(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_json_lacks_is_never_written(tmp_path: Path, bad: float) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1.5})
    with pytest.raises(QSchedError, match=r"x.json would hold a number that is not finite at \.rows\[1\]\.gain"):
        write_json(path, {"rows": [{"gain": 1.0}, {"gain": bad}]})
    assert path.read_text() == '{\n "a": 1.5\n}\n'


def interrupted(output: Path, **parts: Callable[[Path], None]) -> Path:
    """The staging folder of a run that made these parts and was stopped."""
    with pytest.raises(KeyboardInterrupt), Staging(output, {"x": 1}, False) as staging:
        for name, made in parts.items():
            staging.part(name, made)
        raise KeyboardInterrupt
    return staging.folder


def zeros(folder: Path) -> None:
    data = bytearray((folder / "first/data").read_bytes())
    data[100:164] = bytes(64)
    (folder / "first/data").write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "64 zeroed bytes": zeros,
    "a shorter file": lambda f: (f / "first/data").write_bytes(b"x"),
    "no file": lambda f: (f / "first/data").unlink(),
    "no record": lambda f: (f / ".first.part.json").unlink(),
    "an empty record": lambda f: (f / ".first.part.json").write_bytes(b""),
    "a zeroed record": lambda f: (f / ".first.part.json").write_bytes(bytes(80)),
    "a foreign record": lambda f: (f / ".first.part.json").write_text('{"key": 3, "files": [4]}'),
    "a record of nothing": lambda f: (f / ".first.part.json").write_text("[]"),
    "a link": lambda f: ((f / "first/data").unlink(), (f / "first/data").symlink_to(f / "first/deep/other")),
}


def two(folder: Path) -> None:
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "data").write_bytes(b"y" * 1000)
    (folder / "deep/other").write_bytes(b"z" * 1000)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_made_anew_with_one_line(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = interrupted(tmp_path / "out", first=two)
    DAMAGES[damage](folder)
    made: list[Path] = []
    with Staging(tmp_path / "out", {"x": 1}, False) as staging:
        staging.part("first", lambda f: (made.append(f), two(f)))  # type: ignore[arg-type, func-returns-value]
    assert len(made) == 1
    assert (tmp_path / "out/first/data").read_bytes() == b"y" * 1000
    said = capsys.readouterr().err.splitlines()
    assert len(said) <= 1
    assert said or damage in ("a foreign record", "no record")  # which tell of another run, whose traces go
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_nobody_made_never_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = interrupted(tmp_path / "out", first=two)
    for stray in ("first/stray", "first/deep/stray", "stray", ".other.partial", "tree/deep/stray"):
        (folder / stray).parent.mkdir(parents=True, exist_ok=True)
        (folder / stray).write_bytes(b"stray")
    (folder / "first/link").symlink_to(tmp_path)
    with Staging(tmp_path / "out", {"x": 1}, False) as staging:
        staging.part("first", lambda f: pytest.fail("made twice"))
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if not p.is_dir())
    assert files == ["out/first/data", "out/first/deep/other"]
    assert len(capsys.readouterr().err.splitlines()) == 3  # those in the part


def test_a_part_serves_the_key_it_was_made_for(tmp_path: Path) -> None:
    made: list[str] = []

    def run(key: str, stop: bool) -> None:
        with Staging(tmp_path / "out", {}, True) as staging:
            staging.part("first", lambda f: (made.append(key), two(f)), key)  # type: ignore[arg-type, func-returns-value]
            if stop:
                raise KeyboardInterrupt

    for key, stop in (("a", True), ("b", True), ("b", False)):
        try:
            run(key, stop)
        except KeyboardInterrupt:
            continue
    assert made == ["a", "b"]


def test_two_processes_never_work_on_one_output(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from qsched_edge.work.staging import Staging\n"
        "with Staging(Path(sys.argv[1]), {}, False) as staging:\n"
        "    (staging.folder / 'journal.jsonl').write_text('mine')\n"
        "    print('mine', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(RequestError, match=r"another process is at work on .*: wait for it, or stop it"):
            Staging(tmp_path / "out", {"mine": 1}, True)
        with pytest.raises(RequestError, match="another process"), stages.locked(tmp_path / "out"):
            pass
        other.stdin.close()
        assert other.wait(60) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["journal.jsonl"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_names_that_no_file_system_holds_are_refused_before_the_work(tmp_path: Path) -> None:
    for name in ("x" * 250, "\u00e9" * 120):
        with pytest.raises(OutputExistsError, match="is too long: use 215 bytes"):
            Staging(tmp_path / name, {}, False)
    with Staging(tmp_path / ("x" * 215), {}, False):
        pass


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "x.json").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "x.json", {"a": 1})
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("x.json", "old")]


class Killed(BaseException):
    """Where a process would have died."""


def job(output: Path, step: Callable[[], None]) -> None:
    """An export in small: weights that a store resumes, a part that starts anew, a journal's values, a file."""
    arrays = [np.full(100 * 3**i, i + 1, np.uint8) for i in range(6)]

    def weights(folder: Path) -> None:
        keep_only(folder, ("data", stages.JOURNAL))
        with TensorStore(folder, "data") as store:
            for i, array in enumerate(arrays):
                step()
                store.weight(str(i), lambda i=i, array=array: [Packed.of(f"{i}{part}", array) for part in "ab"])  # type: ignore[misc]

    def copied(folder: Path) -> None:
        keep_only(folder, ())
        for name in "abc":
            step()
            (folder / name).write_bytes(name.encode() * 3000)

    def values(folder: Path) -> None:
        journal, found = Journal(staging.journal("values"), "values"), []
        for key in range(5):
            step()
            found.append(journal.recall(key, lambda key=key: [key / 7] * 40))  # type: ignore[misc]
        write_json(folder / "values.json", found)

    with Staging(output, {"x": 1}, True) as staging:
        for name, make in (("weights", weights), ("copied", copied), ("values", values)):
            staging.part(name, make)
            step()
        write_json(staging.folder / "whole.json", {"files": 3})
        step()


@pytest.mark.parametrize("seed", range(4))
def test_power_cuts_leave_nothing_but_what_resumes(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed anywhere, the files that were written last truncated or zeroed: the next run ends as if nothing was."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # what is cut stands for what the disk had not yet

    def tree(output: Path) -> dict[str, bytes]:
        return {p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*") if p.is_file()}

    job(tmp_path / "plain", lambda: None)
    rng, damaged = random.Random(seed), 0
    for round_ in range(25):
        output = tmp_path / f"out{round_}"
        for _ in range(rng.randint(1, 3)):
            left = iter(range(rng.randint(0, 17)))

            def step(left: object = left) -> None:
                if next(left, None) is None:  # type: ignore[call-overload]
                    raise Killed

            with suppress(Killed):  # a run that goes on may have less left to do
                job(output, step)
            damaged += len(cut(traces(output), rng))
        job(output, lambda: None)
        assert tree(output) == tree(tmp_path / "plain")
        assert not list(tmp_path.glob(".*"))
    assert damaged > 50
    assert "damaged" in capsys.readouterr().err
