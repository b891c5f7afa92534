"""A command gets its options as one value, with the defaults of the settings, whatever typer read them from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.cli.calibration import CalibrateOptions
from qsched_edge.cli.options import PLACE, option
from qsched_edge.cli.signatures import one_by_one
from qsched_edge.evaluate.settings import EvaluationSettings


@dataclass(frozen=True, kw_only=True)
class Options:
    folder: Annotated[Path, typer.Argument()]
    count: Annotated[int, option("How many.", PLACE)] = 3
    names: Annotated[list[str], option("Repeat for several.", PLACE, "--name")] = field(default_factory=["a"].copy)
    force: Annotated[bool, option("At any rate.", PLACE, "--force")] = False


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["x"], Options(folder=Path("x"))),
        (["x", "--count", "7", "--force"], Options(folder=Path("x"), count=7, force=True)),
        (["--name", "b", "--name", "c", "x"], Options(folder=Path("x"), names=["b", "c"])),
    ],
)
def test_a_command_gets_one_value(words: list[str], expected: Options) -> None:
    given: list[Options] = []

    def take(value: Options) -> None:
        """What help says."""
        given.append(value)

    app = typer.Typer()
    app.command()(one_by_one(take))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert given == [expected]
    assert "What help says." in CliRunner().invoke(app, ["--help"]).output
    assert CliRunner().invoke(app, ["x", "--count", "many"]).exit_code == 2


def test_what_is_not_said_is_what_the_settings_say() -> None:
    assert CalibrateOptions(bundle=Path("x")).settings() == CalibrationSettings()
    places = {"providers", "place"}
    said = {f.name for f in fields(CalibrateOptions)}
    assert {f.name for f in fields(CalibrationSettings)} - said - places == set()
    assert EvaluationSettings().reference is None
