"""Every bundle of the corpus is refused: one line, soon, in little memory, by the runtime and by the command line."""

import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_case import Case
from hostile_corpus import corpus
from hostile_requests import requests
from qsched_runtime import BundleError, RequestError, Sampler

from qsched_edge.bundle.packing import pack
from qsched_edge.bundle.verify import verify
from qsched_edge.cli.app import run_app

CASES = list(corpus())
CLASSES = list(dict.fromkeys(case.kind for case in CASES))
EVERY, LINES = 4, 25  # of the corpus: what the default tests try, and what goes through the command line there
SECONDS, BYTES = 5.0, 200 * 2**20
RESET = Path("/proc/self/clear_refs")


def status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def cost(call: Callable[[], object]) -> tuple[float, int]:
    """Seconds of CPU time, and bytes beyond what the process holds now (0 where the system does not say)."""
    measured = RESET.exists()
    if measured:
        RESET.write_text("5")  # the peak begins anew
    before, started = status("VmRSS") if measured else 0, time.process_time()
    call()
    return time.process_time() - started, status("VmHWM") - before if measured else 0


def opened(case: Case, folder: Path) -> None:
    """What an app does with a bundle; a self-test is looked at by `verify` alone."""
    if case.kind == "self-test":
        verify(folder)
    else:
        Sampler.from_pretrained(folder, memory="low", threads=1)("a red apple")


def complaint(case: Case, folder: Path, room: int) -> str | None:
    """What is wrong with how a mutated bundle was refused."""
    said: list[Exception] = []

    def call() -> None:
        try:
            opened(case, folder)
        except Exception as error:
            said.append(error)

    seconds, taken = cost(call)
    if not said:
        return "it was used"
    if not isinstance(said[0], BundleError):
        return f"{type(said[0]).__name__}: {said[0]}"
    if not (10 < len(str(said[0])) < 300 and str(said[0]).isprintable()):
        return f"{len(str(said[0]))} characters: {str(said[0])!r}"
    return f"{seconds:.1f} s, {taken / 2**20:.0f} MiB" if seconds > SECONDS or taken > room else None


def mutated(case: Case, good: Path, folder: Path) -> Iterator[Path]:
    """A copy of the good bundle, changed; nothing of it stays."""
    place = folder / "bundle"
    shutil.copytree(good, place)
    try:
        case.mutate(place)
        yield place
    finally:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture(scope="module")
def room(bundles: dict[int, Path]) -> int:
    """What a good load takes, and the limit beyond it."""
    good = lambda: Sampler.from_pretrained(bundles[4], memory="low", threads=1)("a red apple")  # noqa: E731
    return cost(good)[1] + BYTES


def complaints(cases: list[Case], good: Path, folder: Path, room: int) -> list[str]:
    found = []
    for case in cases:
        for place in mutated(case, good, folder):
            if (wrong := complaint(case, place, room)) is not None:
                found.append(f"{case.kind}, {case.name}: {wrong}")
    return found


def test_the_corpus_has_every_class() -> None:
    counts = Counter(case.kind for case in CASES)
    assert len(CASES) > 800
    assert min(counts.values()) >= 15, counts
    assert len({(case.kind, case.name) for case in CASES}) > 0.97 * len(CASES)


@pytest.mark.parametrize("kind", CLASSES)
def test_hostile_bundles_are_refused(kind: str, bundles: dict[int, Path], tmp_path: Path, room: int) -> None:
    cases = [case for case in CASES if case.kind == kind][::EVERY]
    assert complaints(cases, bundles[4], tmp_path, room) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_all_hostile_bundles_are_refused(kind: str, bundles: dict[int, Path], tmp_path: Path, room: int) -> None:
    assert complaints([case for case in CASES if case.kind == kind], bundles[4], tmp_path, room) == []


def ended(arguments: list[Any], capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """Exit code and stderr of a command."""
    patch.setattr(sys, "argv", ["qsched-edge", *map(str, arguments)])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as end:
            run_app()
    finally:
        signal.signal(signal.SIGINT, before)
    return end.value.code, capsys.readouterr().err


def wrong_ends(
    cases: list[Case], good: Path, folder: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
) -> list[str]:
    """Where `run` draws, or a command ends in more or less than one line."""
    found = []
    for case in cases:
        for place in mutated(case, good, folder):
            for command in (["run", place, "-p", "x", "-o", folder / "x.png", "--quiet"],
                            ["verify", place, "--quiet"], ["inspect", place]):  # fmt: skip
                code, said = ended(command, capsys, patch)
                refused = code == 1 and said.startswith("error: ") and len(said.splitlines()) == 1 and len(said) < 320
                sound = code == 0 and (command[0] == "inspect" or (command[0] == "run") == (case.kind == "self-test"))
                if (not refused and not sound) or "unexpected" in said:
                    found.append(f"{command[0]} of {case.kind}, {case.name}: {code}, {said[:200]!r}")
    return found


def test_the_command_line_refuses_in_one_line(
    bundles: dict[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wrong_ends(CASES[:: len(CASES) // LINES], bundles[4], tmp_path, capsys, monkeypatch) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_the_command_line_refuses_all_in_one_line(
    kind: str,
    bundles: dict[int, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases = [case for case in CASES if case.kind == kind]
    assert wrong_ends(cases, bundles[4], tmp_path, capsys, monkeypatch) == []


def test_packing_leaves_nothing_harmful_out(bundles: dict[int, Path], tmp_path: Path, room: int) -> None:
    """What a packed bundle can hold of the corpus is refused as in a folder, when it is packed or when it is opened."""
    kinds = ("JSON", "schedules", "tokenizers", "weights", "graphs", "files list")
    found = []
    for case in [case for case in CASES if case.kind in kinds][::12]:
        for place in mutated(case, bundles[4], tmp_path):
            try:
                one = pack(place, tmp_path / "one.qsched")
            except BundleError:
                continue
            if (wrong := complaint(case, one, room)) is not None:
                found.append(f"{case.kind}, {case.name}: {wrong}")
    assert found == []


def test_requests_without_sense_are_refused(bundles: dict[int, Path]) -> None:
    sampler, found = Sampler.from_pretrained(bundles[4], memory="low", threads=1), []
    for name, asked in requests():
        try:
            sampler(**asked)
        except RequestError as error:
            if not (10 < len(str(error)) < 300 and str(error).isprintable()):
                found.append(f"{name}: {str(error)!r}")
        except Exception as error:
            found.append(f"{name}: {type(error).__name__}: {error}")
        else:
            found.append(f"{name}: it was served")
    assert found == []
