"""The values that pass from a family's file to the export stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsched_runtime.manifest import Guidance, LatentSpec

from qsched_edge.capture.graph import Captured
from qsched_edge.checkpoint.schedule import Sampling


@dataclass(frozen=True)
class ComponentPlan:
    """One graph of the bundle: its folder there, the pipeline's component and the folder its weights come from, how
    to capture it.

    `inputs` maps graph inputs to the runtime's sources (docs/bundle.md). `prefixes` are what some checkpoints put
    before their tensor names, `aliases` other names of shared tensors.
    """

    name: str
    component: str
    source: Path
    capture: Callable[[], Captured]
    inputs: Mapping[str, Any]
    prefixes: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """All components in the order they run, tokenizer folders, latents and guidance.

    `sequence_length` tokens are what a tokenizer without a length of its own (T5's) is asked for; `strength_rounds_up`:
    whether the fraction of a step that a strength leaves is taken when sampling starts from a picture. `chat` are what
    the pipeline asks a tokenizer's chat template for, where it writes one around the prompt.
    """

    components: tuple[ComponentPlan, ...]
    backbone: str
    decoder: str
    encoder: str | None
    tokenizers: tuple[str, ...]
    latents: LatentSpec
    guidance: Guidance
    sequence_length: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    strength_rounds_up: bool = False
    chat: Mapping[str, Any] = field(default_factory=dict)
