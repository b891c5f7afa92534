"""How many bytes the components' weights take in FP16: what every ratio is measured against."""

from __future__ import annotations

from math import prod

from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.pipelines import Choices, layout_of

HALVES = {"vae_decoder": ("decoder.", "post_quant_conv."), "vae_encoder": ("encoder.", "quant_conv.")}


def fp16_bytes(spec: ModelSpec, choices: Choices) -> dict[str, int]:
    """Component name -> 2 bytes for every parameter it uses (of a VAE, its own half)."""
    sizes = {}
    for plan in layout_of(spec, choices).components:
        weights = spec.weights(plan.component, plan.source)
        names = [n for n in weights if n.startswith(HALVES.get(plan.name, ("",)))]
        sizes[plan.name] = sum(2 * prod(weights.shape(n)) for n in names)
    return sizes
