"""Power cuts: a command is killed at a random moment, files that were written last lose bytes, the command runs again.

    python -m benchmarks.power_cuts FOLDER [--rounds 10] [--seed 0] [--only export]

In FOLDER the embedded model is exported, its graph quantized, its bundle calibrated and evaluated; what comes out after
the cuts is compared with what comes out without. With --keep nothing but the kill happens. The table: docs/security.md.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECENT, MOST_CUT = 8, 4  # files that the cache of a disk may still have held, and how many of them lose bytes
BLOCK = 4096
TIMES = ("seconds", "seconds_per_image", "memory")  # keys of what no two runs agree in


def traces(output: Path) -> list[Path]:
    """All files of the hidden work beside `output`, the newest first."""
    hidden = [path for path in output.parent.glob(f".{output.name}*") if not path.is_symlink()]
    files = [f for path in hidden for f in (path, *path.rglob("*")) if f.is_file() and not f.name.endswith(".lock")]
    return sorted(files, key=lambda file: (-file.stat().st_mtime_ns, file.as_posix()))


def cut(files: Iterable[Path], rng: random.Random) -> list[str]:
    """Take bytes from some of the newest `files`, as a disk does that had promised them; says what became of which."""
    recent = list(files)[:RECENT]
    chosen = rng.sample(recent, min(len(recent), rng.randint(1, MOST_CUT)))
    return [f"{rng.choice(DAMAGES)(file, rng)} {file.name}" for file in chosen]


def truncated(file: Path, rng: random.Random) -> str:
    with file.open("r+b") as handle:
        handle.truncate(rng.randint(0, file.stat().st_size))
    return "truncated"


def emptied(file: Path, rng: random.Random) -> str:
    file.write_bytes(b"")
    return "emptied"


def zeroed(file: Path, rng: random.Random) -> str:
    """From somewhere on, or 64 bytes, or a block."""
    size = file.stat().st_size
    start = rng.randrange(size) if size else 0
    with file.open("r+b") as handle:
        handle.seek(start)
        handle.write(bytes(min(size - start, rng.choice([64, BLOCK, size]))))
    return "zeroed"


DAMAGES: tuple[Callable[[Path, random.Random], str], ...] = (truncated, emptied, zeroed)


@dataclass(frozen=True)
class Case:
    """A command, what it writes, and how that is read for comparing."""

    name: str
    arguments: list[Any]
    output: Path
    read: Callable[[Path], Any]
    before: Callable[[], object] = lambda: None


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def read_json(path: Path) -> Any:
    return without_times(json.loads(path.read_text("utf-8")))


def cases(folder: Path) -> list[Case]:
    whole, bundle, fresh = folder / "emoji-w32", folder / "emoji-w4", folder / "calibrated/emoji-w4"

    def again() -> None:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(bundle, fresh)

    for bits, path in ((32, whole), (4, bundle)):
        if not path.exists():
            run("export", "--model", "emoji", "--bits", bits, "-o", path)
    few = ("--count", 24, "--seeds", 1, "--reference", whole)
    asked = ("--search", "free", "--budget", "600", "--fit-prompts", 8, "--heldout-prompts", 8, "--reference", whole)
    return [
        Case("export", ["export", "--model", "emoji", "--method", "gptq", "--calib-count", 8, "--target-ratio", 3.4,
             "-o", folder / "chosen"], folder / "chosen", lambda p: read_json(p / "qsched.json")["files"]),
        Case("quantize", ["quantize", whole / "unet/model.onnx", "-o", folder / "q.onnx"], folder / "q.onnx",
             lambda p: [file.read_bytes() for file in sorted(p.parent.glob("q.onnx*"))]),
        Case("calibrate", ["calibrate", fresh, *asked], fresh, lambda p: read_json(p / "qsched.json"), again),
        Case("evaluate", ["evaluate", bundle, "-o", folder / "report", *few], folder / "report",
             lambda p: read_json(p / "report.json")),
    ]  # fmt: skip


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "qsched_edge", *map(str, arguments)]


def run(*arguments: Any, kill_after: float | None = None) -> tuple[int, float, str]:
    """Exit code, seconds, what was said."""
    started = time.perf_counter()
    with subprocess.Popen(
        command(*arguments, "--quiet"), cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        try:
            _, said = child.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            child.kill()
            _, said = child.communicate()
    return child.returncode, time.perf_counter() - started, said


def rounds(case: Case, count: int, rng: random.Random, keep: bool) -> dict[str, Any]:
    """`count` runs that are killed once or twice, damaged and resumed; how many ended as the undisturbed one."""
    force = () if case.name == "calibrate" else ("--force",)
    case.before()
    code, seconds, said = run(*case.arguments, *force)
    if code:
        raise SystemExit(f"{case.name}: {said}")
    wanted, same, failures, damaged, told = case.read(case.output), 0, [], 0, 0
    for _ in range(count):
        case.before()
        for _ in range(rng.randint(1, 2)):
            run(*case.arguments, *force, kill_after=rng.uniform(0.15, 1.0) * seconds)
            damaged += 0 if keep else len(cut(traces(case.output), rng))
        code, _, said = run(*case.arguments, *force)
        told += len(said.splitlines())
        left = [path.name for path in case.output.parent.glob(f".{case.output.name}*")]
        if code == 0 and case.read(case.output) == wanted and not left:
            same += 1
        else:
            failures.append(said.strip().splitlines()[-1:] or left or ["another result"])
    return {"runs": count, "files cut": damaged, "as undisturbed": same, "lines said": told, "failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true", help="kill only, damage nothing")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for case in cases(given.folder.resolve()):
        if given.only in ("", case.name):
            found = rounds(case, given.rounds, random.Random(f"{case.name} {given.seed}"), given.keep)
            print(case.name, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
