"""Runs in the environment of optimum: open a bundle as ORTDiffusionPipeline, draw, save the pictures as .npy.

usage: python compat_draw.py BUNDLE OUT.npy STEPS GUIDANCE HEIGHT WIDTH SEQUENCE_LENGTH PROMPT...
"""

import sys

import numpy as np
import torch
from optimum.onnxruntime import ORTDiffusionPipeline

bundle, out, steps, guidance, height, width, sequence_length, *prompts = sys.argv[1:]
pipeline = ORTDiffusionPipeline.from_pretrained(bundle, provider="CPUExecutionProvider")
pipeline.set_progress_bar_config(disable=True)
extra = {"max_sequence_length": int(sequence_length)} if "Flux" in type(pipeline).__name__ else {}
drawn = pipeline(
    prompts,
    num_inference_steps=int(steps),
    guidance_scale=float(guidance),
    height=int(height),
    width=int(width),
    generator=torch.Generator("cpu").manual_seed(5),
    output_type="np",
    **extra,
)
np.save(out, np.asarray(drawn.images))
