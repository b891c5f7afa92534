"""The command line: parse, call, print. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import errno
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from qsched_edge.cli import bundles, calibration, drawing, graphs, packing, reports, serving, speed
from qsched_edge.cli.options import Grouped
from qsched_edge.cli.signatures import one_by_one
from qsched_edge.errors import QSchedError

app = typer.Typer(
    name="qsched-edge",
    help="Take few-step text-to-image models to the edge: export, quantize, calibrate, evaluate, run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    bundles.models, bundles.recipe, bundles.export, graphs.quantize, calibration.calibrate, reports.evaluate,
    reports.ablate, drawing.run, serving.serve, serving.site, speed.bench, drawing.verify, packing.pack, packing.unpack,
    packing.sign, graphs.inspect,
)  # fmt: skip
for command in COMMANDS:
    app.command(cls=Grouped)(one_by_one(command))


def print_version(wanted: bool) -> None:
    if wanted:
        from qsched_edge import __version__

        print(f"qsched-edge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    if debug:
        os.environ["QSCHED_DEBUG"] = "1"


class Interrupted(BaseException):
    """Ctrl-C, as an exception that no library in between turns into something else."""


def interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise Interrupted


LONGEST_MESSAGE = 600
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def text_of(error: Exception) -> str:
    """What failed, where, and what to do; of what nobody foresaw, its kind and how to see where it came from."""
    if isinstance(error, MemoryError):
        return "out of memory: close other programs, or give --max-ram where the command has it"
    if not isinstance(error, (QSchedError, OSError)):
        return (
            f"unexpected {type(error).__name__}: {error}: a fault of qsched-edge; --debug before the command shows it"
        )
    if isinstance(error, QSchedError) or not error.strerror:
        return str(error)
    where = f": {error.filename}" if error.filename else ""
    advice = ": make room, the same command goes on from here" if error.errno in NO_ROOM else ""
    return error.strerror + where + advice


def one_line(text: str) -> str:
    """Printable, without line breaks, and no longer than anybody reads."""
    printable = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return printable if len(printable) <= LONGEST_MESSAGE else f"{printable[: LONGEST_MESSAGE - 3]}..."


def run_app() -> None:
    """Run the command: errors are one line on stderr and exit code 1, usage errors 2, Ctrl-C 130."""
    signal.signal(signal.SIGINT, interrupt)
    try:
        app()
    except Interrupted:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("QSCHED_DEBUG"):
            raise
        print(f"error: {one_line(text_of(error))}", file=sys.stderr)
        raise SystemExit(1) from None
