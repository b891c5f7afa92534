"""Outputs appear whole or not at all."""

from pathlib import Path

import pytest

from qsched_edge.errors import OutputExistsError, QSchedError
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
