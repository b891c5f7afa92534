"""docs/cli.md, from the commands themselves: `python -m qsched_edge.cli.reference docs/cli.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, starmap
from pathlib import Path
from typing import Any

import typer

from qsched_edge.cli.app import app
from qsched_edge.cli.options import PANELS, panel_of

HEAD = """# The command line

This page is written by `python -m qsched_edge.cli.reference docs/cli.md`; `qsched-edge COMMAND --help` says the same.
Results go to stdout (`--json` for programs), progress and errors to stderr. An error is one line and exit code 1; a
command that cannot be understood is exit code 2, Ctrl-C is 130. `qsched-edge --debug COMMAND` shows the traceback of an
error. Every command that takes long goes on where it was interrupted when it is given again, and an output that exists
is replaced with `--force` alone. Words are explained in the [glossary](glossary.md).
"""


def page() -> str:
    """Every command with its arguments and options, in the order and groups of the help."""
    group: Any = typer.main.get_command(app)
    return "\n".join([HEAD, *sections("qsched-edge", group), *chain(*starmap(sections, group.commands.items()))])


def sections(name: str, command: Any) -> Iterator[str]:
    """The heading, what the command does, how it is written, its options in groups."""
    context = command.make_context(name, [], resilient_parsing=True)
    records = ((panel_of(p), p.get_help_record(context)) for p in command.get_params(context))
    shown = [(panel, record) for panel, record in records if record and not record[0].endswith("--help")]
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"## {name}\n"
    yield f"{str(command.help).strip()}\n"
    yield f"    {name if name == 'qsched-edge' else f'qsched-edge {name}'} {usage}\n"
    for panel, members in groupby(sorted(shown, key=lambda pair: PANELS.index(pair[0])), key=lambda pair: pair[0]):
        yield f"{panel}:\n"
        yield table(record for _, record in members)


def table(records: Iterable[tuple[str, str]]) -> str:
    rows = [f"| `{cell(names)}` | {cell(meaning)} |" for names, meaning in records]
    return "\n".join(["| | |", "|---|---|", *rows]) + "\n"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
