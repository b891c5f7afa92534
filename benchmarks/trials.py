"""What a new user tries first: `python -m benchmarks.trials -o DIR [--write docs/trials.md] [--only sd-turbo]`.

A miniature of each family as a plain folder, as a single file where its authors publish one, and under a hub id:
export, calibrate, evaluate and run with no option beyond the model, each trial from an empty cache. The hub is a server
on the loopback device that real huggingface_hub code asks; scorers are random miniatures under the names that are
fetched by default. Rows that DIR/trials.jsonl has already are not tried again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the tests' miniatures and their hub

from hub_server import serving

BEGIN, END = "<!-- trials: begin -->\n", "<!-- trials: end -->\n"
COMMANDS = ("export", "calibrate", "evaluate", "run")
FORMS = ("folder", "single file", "hub id")
MAKER = "maker"  # owner of the miniatures on the hub
BASES = {  # where diffusers looks for what a single file of the family lacks
    "sd-turbo": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl-turbo": "stabilityai/stable-diffusion-xl-base-1.0",
    "flux1-schnell": "black-forest-labs/FLUX.1-schnell",
}
PROMPT = "a red apple on a wooden table"


@dataclass(frozen=True)
class Row:
    """One trial: CPU seconds of each command that ended well, the error line of the one that did not."""

    family: str
    form: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""
    few: bool = False

    @property
    def finished(self) -> bool:
        return not self.fault and set(self.seconds) == set(COMMANDS)

    def line(self) -> str:
        cells = [f"{self.seconds[name]:.0f} s" if name in self.seconds else "-" for name in COMMANDS]
        prompts = "few" if self.few else "default"
        return f"| {self.family} | {self.form} | {prompts} | {' | '.join(cells)} | {self.fault or 'all finished'} |"


def builders() -> dict[str, Callable[[], Any]]:
    """Family -> diffusers' pipeline with random weights."""
    import families
    from diffusers import EulerAncestralDiscreteScheduler

    def turbo() -> Any:
        return EulerAncestralDiscreteScheduler(**families.BETAS, timestep_spacing="trailing")

    return {
        "sd-turbo": lambda: families.stable_diffusion(turbo()),
        "lcm": families.latent_consistency,
        "sdxl-turbo": lambda: families.stable_diffusion_xl(turbo(), layers=10),
        "sd3-turbo": families.stable_diffusion_3,
        "flux1-schnell": families.flux,
    }


def write_model(family: str, place: Path) -> None:
    """`place`/models/FAMILY, on the hub beside it and, where there is a layout, `place`/files/FAMILY.safetensors."""
    import families
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    pipeline = builders()[family]()
    folder = families.save(pipeline, place / "models" / family)
    shutil.copytree(folder, place / "hub" / MAKER / family)
    if family in BASES:
        torch.manual_seed(1)
        families.save(builders()[family](), place / "hub" / BASES[family])
        (place / "files").mkdir(exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in as_published(family, pipeline).items()}
        save_file(tensors, place / "files" / f"{family}.safetensors")


def as_published(family: str, pipeline: Any) -> dict[str, Any]:
    """The tensors under the names of their authors' code."""
    import torch

    from benchmarks import original_layout

    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    states = {name: part.state_dict() for name, part in parts.items()}
    if family == "flux1-schnell":
        return original_layout.flux(states["transformer"])
    layout = original_layout.stable_diffusion_xl if "text_encoder_2" in states else original_layout.stable_diffusion
    return layout(states, 1, [True, False])


def write_scorers(hub: Path) -> None:
    """Random miniatures of the models that a calibration fetches where nobody names one."""
    import open_clip
    import torch
    from transformers import CLIPConfig, CLIPModel

    from qsched_edge.jaq import hps
    from qsched_edge.jaq.scorers import DEFAULT_SCORER, HPS

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407, "bos_token_id": 49406}
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(
        hub / DEFAULT_SCORER
    )
    tiny = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    config = hub / "tiny-hps.json"
    config.write_text(json.dumps(tiny))
    open_clip.add_model_config(config)
    hps.ARCHITECTURE = config.stem  # in the place of ViT-H-14
    (hub / HPS).parent.mkdir(parents=True)
    torch.save(open_clip.create_model(config.stem).state_dict(), hub / HPS)


@contextlib.contextmanager
def small_flux() -> Iterator[None]:
    """FLUX's picture of 1024 pixels and the width that diffusers' converter is written for are a miniature's."""
    from diffusers.loaders import single_file_utils as stock

    from qsched_edge.pipelines import flux

    name, size = "convert_flux_transformer_checkpoint_to_diffusers", flux.DEFAULT_SIZE
    convert = getattr(stock, name)
    constants = tuple(32 if value == 3072 else value for value in convert.__code__.co_consts)
    narrow = FunctionType(convert.__code__.replace(co_consts=constants), stock.__dict__, closure=convert.__closure__)
    flux.DEFAULT_SIZE = 8
    setattr(stock, name, narrow)
    try:
        yield
    finally:
        flux.DEFAULT_SIZE = size
        setattr(stock, name, convert)


def model_of(family: str, form: str, place: Path) -> str:
    """What a user would write after `--model`."""
    places = {
        "folder": str(place / "models" / family),
        "single file": str(place / "files" / f"{family}.safetensors"),
        "hub id": f"{MAKER}/{family}",
    }
    return places[form]


FEW = {  # what makes a trial quick
    "calibrate": ["--fit-prompts", "2", "--heldout-prompts", "2", "--budget", "16"],
    "evaluate": ["--count", "2", "--seeds", "1"],
}


def commands_of(family: str, model: str, few: bool = False) -> dict[str, list[str]]:
    """Nothing but the model, and where the result goes where a command has no default for it."""
    bundle = f"{family}-w4"
    words = {
        "export": ["export", "-m", model],
        "calibrate": ["calibrate", bundle],
        "evaluate": ["evaluate", bundle, "-o", "report"],
        "run": ["run", bundle, "-p", PROMPT, "-o", "apple.png"],
    }
    return {name: [*command, *(FEW.get(name, []) if few else [])] for name, command in words.items()}


def called(words: list[str], folder: Path) -> str:
    """The command line in this process, from inside `folder`: "" or its error line."""
    from qsched_edge.cli.app import run_app

    said = io.StringIO()
    was, sys.argv, here = sys.argv, ["qsched-edge", *words], Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            run_app()
    except SystemExit as end:
        if end.code:
            return (said.getvalue().strip().splitlines() or [f"exit {end.code}"])[-1]
    finally:
        os.chdir(here)
        sys.argv = was
    return ""


def tried(family: str, form: str, place: Path, few: bool = False) -> Row:
    """All commands in an empty folder, with empty caches, until one fails."""
    from qsched_edge.checkpoint import hub

    work = place / "work"
    for folder in (work, place / "cache"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    hub.fetch.cache_clear()
    seconds: dict[str, float] = {}
    for name, words in commands_of(family, model_of(family, form, place), few).items():
        start = time.process_time()
        fault = called(words, work)
        if fault:
            return Row(family, form, seconds, f"{name}: {fault}", few)
        seconds[name] = round(time.process_time() - start, 1)
        print(f"{family} as {form}, {name}: {seconds[name]} s", file=sys.stderr, flush=True)
    return Row(family, form, seconds, few=few)


def forms_of(family: str) -> list[str]:
    return [form for form in FORMS if form != "single file" or family in BASES]


def table(rows: list[Row]) -> str:
    head = f"| miniature of | given as | prompts | {' | '.join(COMMANDS)} | |\n|{'---|' * (len(COMMANDS) + 4)}\n"
    return head + "".join(f"{row.line()}\n" for row in rows)


def written(document: Path, rows: list[Row]) -> None:
    """The table between the document's two marks."""
    before, rest = document.read_text("utf-8").split(BEGIN)
    document.write_text(before + BEGIN + table(rows) + END + rest.split(END)[1], "utf-8")


def benchmark(output: Path, only: list[str], few: bool) -> list[Row]:
    """Every family in every form; a row is kept as soon as it is there."""
    from benchmarks.remembered import captures_remembered
    from qsched_edge import torchvision_schema

    torchvision_schema.declare()
    journal = output / "trials.jsonl"
    rows = known_rows(journal, few)
    wanted = {
        family: [form for form in forms_of(family) if (family, form) not in rows] for family in only or builders()
    }
    if any(wanted.values()):
        shutil.rmtree(output / "hub", ignore_errors=True)
        shutil.rmtree(output / "models", ignore_errors=True)
        write_scorers(output / "hub")
    with small_flux(), captures_remembered():
        for family, forms in wanted.items():
            if forms:
                write_model(family, output)
            for form in forms:
                row = rows[family, form] = tried(family, form, output, few)
                print(row.line(), file=sys.stderr, flush=True)
                with journal.open("a") as out:
                    out.write(json.dumps(asdict(row)) + "\n")
    return sorted(rows.values(), key=lambda row: (list(builders()).index(row.family), FORMS.index(row.form)))


def known_rows(journal: Path, few: bool) -> dict[tuple[str, str], Row]:
    """The trials that finished, by family and form; one with few prompts counts where few are asked for."""
    lines = journal.read_text("utf-8").splitlines() if journal.is_file() else []
    found = sorted((Row(**json.loads(line)) for line in lines), key=lambda row: not row.few)
    return {(row.family, row.form): row for row in found if row.finished and row.few <= few}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--write", type=Path, help="document whose table is replaced")
    parser.add_argument("--only", action="append", default=[], help="family; repeat for several")
    parser.add_argument("--few", action="store_true", help=f"with {FEW}: a quick look")
    given = parser.parse_args()
    output = given.output.resolve()
    (output / "hub").mkdir(parents=True, exist_ok=True)
    with serving(output / "hub") as hub:
        caches = {**hub.environment(output / "cache"), "XDG_CACHE_HOME": str(output / "cache/xdg")}
        os.environ.update(caches)  # before the hub's client is imported, which reads them once
        rows = benchmark(output, given.only, given.few)
    if given.write:
        written(given.write, rows)
    print(table(rows), end="")
    raise SystemExit(0 if all(row.finished for row in rows) else 1)


if __name__ == "__main__":
    main()
