"""Bundles open unchanged in optimum's ORTDiffusionPipeline; `make compat` gives it an environment of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import families
import numpy as np
import pytest
from conftest import ROOT
from qsched_runtime import Sampler
from test_families import PROMPTS, spec

from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.choices import Choices
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings
from training.names import rename_text_encoder

__all__ = ["spec"]
pytestmark = pytest.mark.compat
PYTHON = os.environ.get("QSCHED_COMPAT_PYTHON", "")
NOT_IN_OPTIMUM = ("Flux2KleinPipeline", "ZImagePipeline")


@pytest.mark.parametrize("bits", [4, 8])
def test_optimum_draws_what_the_runtime_draws(spec: ModelSpec, bits: int, tmp_path: Path) -> None:
    if spec.pipeline == "StableDiffusion3Pipeline":
        pytest.skip("the graph joins the text states itself, optimum joins them before it")
    if spec.pipeline in NOT_IN_OPTIMUM:
        pytest.skip("optimum has no pipeline of this class")
    if not PYTHON:
        pytest.fail("QSCHED_COMPAT_PYTHON names no python with optimum-onnx: run `make compat`")
    bundle = export(spec, ExportSettings(bits, choices=Choices(encoder=True)), tmp_path / "bundle", quiet=True)
    steps, guidance, length = spec.recipe.steps[0], spec.recipe.guidance, spec.recipe.sequence_length
    numbers = [str(n) for n in (steps, guidance, 16, 16, length)]
    command = [PYTHON, str(ROOT / "tests/compat_draw.py"), str(bundle), str(tmp_path / "out.npy"), *numbers, *PROMPTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = np.round(np.load(tmp_path / "out.npy") * 255)
    ours = Sampler.from_pretrained(bundle)(PROMPTS, seed=5, num_inference_steps=steps, height=16, width=16).images
    assert np.abs(ours - theirs).max() <= 3  # onnxruntime's 4-bit kernels may sum in another order
    assert np.abs(ours - theirs).mean() <= 0.2


def test_text_encoders_that_are_published_here_load_whole(tmp_path: Path) -> None:
    """transformers 4 draws weights at random, with a warning, where names lack "text_model."."""
    if not PYTHON:
        pytest.fail("QSCHED_COMPAT_PYTHON names no python with optimum-onnx: run `make compat`")
    families.clip_text().save_pretrained(tmp_path)
    rename_text_encoder(tmp_path / "model.safetensors")
    code = (
        "import sys; from transformers import CLIPTextModel as M; "
        "print(len(M.from_pretrained(sys.argv[1], output_loading_info=True)[1]['missing_keys']))"
    )
    done = subprocess.run([PYTHON, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
