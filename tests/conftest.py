"""Shared fixtures: a random miniature of the real pipeline class, saved by diffusers and exported by us."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.remembered import captures_remembered
from qsched_edge import torchvision_schema

torchvision_schema.declare()

ROOT = Path(__file__).parent.parent
TOKENIZER = ROOT / "models/emoji/tokenizer"


TRACED = "QSCHED_TESTS_TRACED"  # the folder of graphs that all processes of the tests share


def command_line(*arguments: object) -> list[str]:
    """What runs `qsched-edge ARGUMENTS` in a process of its own; exports take the graphs that tests have traced."""
    traced = arguments[0] == "export" and TRACED in os.environ
    module = ["benchmarks.remembered", os.environ[TRACED]] if traced else ["qsched_edge"]
    return [sys.executable, "-m", *module, *map(str, arguments)]


def cli(*arguments: object, timeout: int = 600) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = command_line(*arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_fetched() -> Iterator[None]:
    """Whatever asks for more than this machine, in the processes of the tests too, finds a proxy that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
            patch.setenv(name.upper(), "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="session", autouse=True)
def captures_are_remembered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every architecture is traced once, whichever process of the tests asks first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "traced"
    os.environ[TRACED] = str(folder)
    with captures_remembered(folder):
        yield


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with random weights: LatentConsistencyModelPipeline, 16 x 16 pixels."""
    import torch
    from diffusers import AutoencoderKL, LatentConsistencyModelPipeline, LCMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        time_cond_proj_dim=16,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    pipeline = LatentConsistencyModelPipeline(
        vae, CLIPTextModel(text_config), tokenizer, unet, scheduler, None, None, requires_safety_checker=False
    )
    folder = tmp_path_factory.mktemp("models") / "miniature"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def recipe(miniature: Path) -> Path:
    """A recipe of the miniature that borrows the emoji model's judges and prompts, and keeps one layer only."""
    path = miniature.parent / "mini.toml"
    path.write_text(
        f"""title = "Miniature"
source = "miniature"
license = "CC0-1.0"
steps = [4, 2]
guidance = 2.0
group_size = 32
inherit = false
prompts = "{ROOT}/calib_prompts/emoji.txt"
heldout = "{ROOT}/calib_prompts/emoji-heldout.txt"
scorer = "{ROOT}/models/emoji-scorer"
quality_prompts = ["a clean drawing of {{prompt}}", "a corrupted drawing of {{prompt}}"]
evaluator = "{ROOT}/models/emoji-evaluator"
gate = ["concepts:{ROOT}/models/emoji-gate"]

[keep]
"unet.conv_out.*" = 16
"""
    )
    return path


@pytest.fixture(scope="session")
def bundles(recipe: Path) -> dict[int, Path]:
    """The miniature exported at 32 and 4 bits."""
    from qsched_edge.checkpoint.recipes import resolve
    from qsched_edge.export.run import export
    from qsched_edge.export.settings import ExportSettings

    spec = resolve(str(recipe))
    return {
        bits: export(spec, ExportSettings(bits), recipe.parent / f"mini-w{bits}", force=True, quiet=True)
        for bits in (32, 4)
    }


@pytest.fixture(scope="session")
def emoji_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model at 4 bits."""
    from qsched_edge.checkpoint.recipes import resolve
    from qsched_edge.export.run import export
    from qsched_edge.export.settings import ExportSettings

    return export(resolve("emoji"), ExportSettings(4), tmp_path_factory.mktemp("emoji") / "emoji-w4", quiet=True)


@pytest.fixture
def copy(bundles: dict[int, Path], tmp_path: Path) -> Path:
    """One's own copy of the miniature in 4 bits."""
    return Path(shutil.copytree(bundles[4], tmp_path / "bundle"))
