"""Options that several commands share, choices that help and completion list, and help in groups."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from qsched_runtime.devices import DEVICES
from typer.core import TyperCommand

from qsched_edge.calibrate.registries import MEMORY_MODES
from qsched_edge.errors import MissingExtraError, unknown_name
from qsched_edge.installed import install_command

if TYPE_CHECKING:
    from qsched_runtime import Sampler

WHAT, PICTURE, PRECISION, OBSERVING, PARTS = "Input", "Picture", "Precision", "Observing the model", "Parts"
SEARCHING, SCORING, DECIDING, PLACE, OUTPUT = "Search", "Score", "Decision", "Where it runs", "Output"
LIMITS = "Limits"
PANELS = (
    "Arguments",
    WHAT,
    PICTURE,
    PRECISION,
    OBSERVING,
    PARTS,
    SEARCHING,
    SCORING,
    DECIDING,
    PLACE,
    LIMITS,
    OUTPUT,
    "Options",
)


def one_of(names: Iterable[str], help_text: str, panel: str, *flags: str, **extra: Any) -> Any:
    """An option that takes one of `names`, which help and completion list; another name is a usage error."""
    known = list(names)

    def check(parameter: typer.CallbackParam, value: Any) -> Any:
        for name in value if isinstance(value, (list, tuple)) else () if value is None else (value,):
            if name not in known:
                raise typer.BadParameter(unknown_name(str(parameter.name).replace("_", " "), name, known))
        return value

    listed = f"[{'|'.join(known)}]"
    complete = lambda incomplete: [name for name in known if name.startswith(incomplete)]  # noqa: E731
    return option(help_text, panel, *flags, metavar=listed, autocompletion=complete, callback=check, **extra)


def option(help_text: str, panel: str, *flags: str, **extra: Any) -> Any:
    return typer.Option(*flags, help=help_text, rich_help_panel=panel, **extra)


Bundle = Annotated[Path, typer.Argument(help="Folder of a bundle, or a packed one.", show_default=False)]
Output = Annotated[Path | None, option("Where the result goes.", OUTPUT, "-o", "--output", show_default=False)]
Report = Annotated[Path, option("Folder for report.json and report.html.", OUTPUT, "-o", "--output")]
Force = Annotated[bool, option("Replace an output that exists.", OUTPUT, "--force")]
Quiet = Annotated[bool, option("No progress bars.", OUTPUT, "--quiet")]
Json = Annotated[bool, option("Print the result as JSON.", OUTPUT, "--json")]
Model = Annotated[
    str | None, option("Recipe or folder of the checkpoint (default: what the bundle says).", WHAT, "-m", "--model")
]
Reference = Annotated[
    Path | None,
    option("32-bit bundle of the same weights (default: NAME-w32 beside it, made if missing).", WHAT),
]
Device = Annotated[str, one_of(DEVICES, "Where the networks run.", PLACE, "--device")]
Provider = Annotated[
    list[str], option("For experts: onnxruntime's own names, in order of preference.", PLACE, "--provider")
]
Memory = Annotated[
    str,
    one_of(
        MEMORY_MODES,
        "low: keep 4-bit convolutions packed; fast: unpack them once; auto: as each network's size allows; sequential: "
        "one network at a time.",
        PLACE,
        "--memory",
    ),
]
DecoderTile = Annotated[
    int | None, option("Decode larger pictures in tiles of so many pixels a side.", PLACE, show_default=False)
]
Threads = Annotated[int | None, option("onnxruntime's threads (default: its own choice).", PLACE)]
Offline = Annotated[bool, option("Fetch nothing: use the models that are at hand.", PLACE, "--offline")]
MaxRam = Annotated[str | None, option("Most memory to take, such as 2G.", PLACE, show_default=False)]
CPU = ["CPUExecutionProvider"]


@dataclass(frozen=True, kw_only=True)
class RuntimePlace:
    """Where and how the runtime runs a bundle."""

    device: Device = "cpu"
    provider: Provider = field(default_factory=list)
    memory: Memory = "auto"
    decoder_tile: DecoderTile = None
    threads: Threads = None

    def sampler(self, bundle: Path) -> Sampler:
        from qsched_runtime import Sampler

        return Sampler.from_pretrained(
            bundle,
            device=self.device,
            providers=self.provider or None,
            memory=self.memory,
            threads=self.threads,
            decoder_tile=self.decoder_tile,
        )


EXTRAS = {  # the smallest extra that a command needs; the others need none beside the command line's own
    "export": "export", "quantize": "quantize", "inspect": "quantize", "calibrate": "calibrate",
    "evaluate": "evaluate", "ablate": "evaluate", "serve": "serve",
    "sign": "sign",
}  # fmt: skip


class Grouped(TyperCommand):
    """A command with its options in the groups that they name; it names its extra where a package is missing."""

    def invoke(self, ctx: Any) -> Any:
        with needing(EXTRAS.get(str(ctx.info_name), "cli")):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        shown = [(panel_of(p), record) for p in self.get_params(ctx) if (record := p.get_help_record(ctx)) is not None]
        for panel, records in groupby(sorted(shown, key=lambda pair: PANELS.index(pair[0])), key=lambda pair: pair[0]):
            with formatter.section(panel):
                formatter.write_dl([record for _, record in records])


def panel_of(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return getattr(parameter, "rich_help_panel", None) or "Options"


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Around the import of a stage: a package that the extra would bring is named with the command that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("qsched"):
            raise  # a fault of ours
        raise MissingExtraError(f"this command needs {error.name}: {install_command(extra)}") from error


def show(value: Any, as_json: bool, text: str) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) if as_json else text)
