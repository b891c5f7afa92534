"""How many bytes the components' weights take in FP16: what every ratio is measured against."""

from __future__ import annotations

from math import prod

from qsched_edge.pipelines import layout_of
from qsched_edge.recipes import ModelSpec
from qsched_edge.weights import Weights, weight_files

DECODER_PREFIXES = ("decoder.", "post_quant_conv.")


def fp16_bytes(spec: ModelSpec) -> dict[str, int]:
    """Component name -> 2 bytes for every parameter it uses (of a VAE, the decoder's alone)."""
    sizes = {}
    for plan in layout_of(spec).components:
        with Weights(weight_files(spec.folder / plan.source), plan.prefix) as weights:
            names = [n for n in weights if plan.source != "vae" or n.startswith(DECODER_PREFIXES)]
            sizes[plan.name] = sum(2 * prod(weights.shape(n)) for n in names)
    return sizes
