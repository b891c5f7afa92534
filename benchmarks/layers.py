"""Methods and widths on single weights: `python -m benchmarks.layers emoji -o DIR` writes layers.md and layers.json.

Layer by layer: every sixth weight of the backbone at 4 bits, tr(dW H dW^T) / tr(W H W^T) with the moments H of prompts
that no method has seen, the geometric mean over the layers. Widths: what `--target-ratio` chooses for several ratios,
from the measured sensitivity of every weight, and how well tr(dW H dW^T) would have ranked the weights instead.
A stopped run goes on at the part where it was.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from benchmarks.remembered import captures_remembered
from qsched_edge.checkpoint.recipes import ModelSpec, resolve
from qsched_edge.checkpoint.weights import Weights
from qsched_edge.export.job import job_of
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings
from qsched_edge.observe import allocation, sensitivity
from qsched_edge.observe.allocation import Option
from qsched_edge.observe.observation import MomentsOf, Observation, write_feeds, write_moments
from qsched_edge.observe.sensitivity import WidthCandidate, restored
from qsched_edge.pipelines import layout_of
from qsched_edge.precision import Scheme
from qsched_edge.prompts import read_prompts
from qsched_edge.quantize.encode import WeightRows
from qsched_edge.quantize.moments import output_error
from qsched_edge.work.journal import Journal
from qsched_edge.work.memory import RamLimit
from qsched_edge.work.staging import Staging, write_json, write_text

METHODS = ("rtn", "mse, nothing observed", "mse", "gptq")
EVERY = 6
RATIOS = (3.4, 3.2, 3.0, 2.5)


@dataclass(frozen=True)
class Backbone:
    """Its weights, those that have a choice of width, bytes of the others, and of all in FP16."""

    name: str
    weights: Weights
    candidates: list[WidthCandidate]
    fixed: int
    fp16: int

    @classmethod
    def of(cls, spec: ModelSpec, graph: Path) -> Backbone:
        job = job_of(spec, ExportSettings(), quiet=True)
        plan = job.backbone
        schemes = partial(scheme_of, job.settings, spec, plan.name)
        return cls(plan.name, job.weights(plan), *sensitivity.width_choices(ir.load(graph).graph, schemes))


def scheme_of(settings: ExportSettings, spec: ModelSpec, component: str, weight: str, bits: int) -> Scheme:
    return settings.scheme(spec.recipe, component, weight, bits=bits)


def relative_error(backbone: Backbone, c: WidthCandidate, scheme: Scheme, seen: MomentsOf, judge: MomentsOf) -> float:
    """tr(dW H dW^T) / tr(W H W^T) with the H of `judge`; the method knows what `seen` gives."""
    moments = judge(c.name)
    assert moments is not None
    weight = np.concatenate(list(WeightRows(backbone.weights, c.name, c.shape)))
    found = restored(c, scheme, backbone.weights, seen).reshape(weight.shape)
    return output_error(found - weight, moments) / output_error(weight, moments)


def layer_by_layer(backbone: Backbone, seen: MomentsOf, judge: MomentsOf) -> dict[str, float]:
    """Geometric mean of the relative error over every sixth weight, by method."""
    some = backbone.candidates[::EVERY]
    means = {}
    for name in METHODS:
        known = (lambda weight: None) if name.endswith("nothing observed") else seen
        errors = [relative_error(backbone, c, Scheme(method=name.split(",")[0]), known, judge) for c in some]
        means[name] = float(np.exp(np.mean(np.log(errors))))
    return means


def chosen_widths(backbone: Backbone, options: Mapping[str, Sequence[Option]]) -> list[tuple[float, str, float]]:
    """(FP16 over the stored weights, widths, summed error): all at the fewest bits, then for each of RATIOS."""
    smallest = {name: min(o.bits for o in some) for name, some in options.items()}
    maps = [smallest, *(allocation.allocate(options, backbone.fixed, target, backbone.fp16) for target in targets())]
    return [described(backbone, options, bits) for bits in maps]


def targets() -> Iterable[allocation.Target]:
    return (allocation.Target(ratio=ratio) for ratio in RATIOS)


def described(
    backbone: Backbone, options: Mapping[str, Sequence[Option]], bits: Mapping[str, int]
) -> tuple[float, str, float]:
    taken = [next(o for o in options[name] if o.bits == b) for name, b in bits.items()]
    widths = ", ".join(f"{n} of {b} bits" for b, n in sorted(Counter(bits.values()).items()))
    return backbone.fp16 / (backbone.fixed + sum(o.bytes for o in taken)), widths, sum(o.error for o in taken)


def rank_correlation(backbone: Backbone, options: Mapping[str, Sequence[Option]], seen: MomentsOf, bits: int) -> float:
    """Spearman's, over the weights: the measured error at `bits` against tr(dW H dW^T) / tr(W H W^T)."""
    from scipy.stats import spearmanr

    measured, proxy = [], []
    for c in backbone.candidates:
        for option in options[c.name]:
            if option.bits == bits:
                measured.append(option.error)
                proxy.append(relative_error(backbone, c, Scheme(bits), seen, seen))
    return float(spearmanr(measured, proxy).statistic)


def share_of_worst(options: Mapping[str, Sequence[Option]], count: int) -> float:
    """What the `count` most sensitive weights contribute to the summed error at their fewest bits."""
    errors = sorted((min(some, key=lambda o: o.bits).error for some in options.values()), reverse=True)
    return sum(errors[:count]) / sum(errors)


def write_reference(spec: ModelSpec, folder: Path) -> None:
    if not (folder / "bundle").exists():
        export(spec, ExportSettings(32), folder / "bundle")


def observed(spec: ModelSpec, staging: Staging, kind: str, prompts: Path, count: int, component: str) -> Observation:
    """Feeds and moments of the first `count` prompts of a file."""
    reference = staging.folder / "reference/bundle"
    feeds = staging.part(f"{kind} feeds", partial(write_feeds, reference, read_prompts(prompts), count, False))
    found = Observation(reference, feeds, None)
    moments = staging.part(f"{kind} moments", partial(write_moments, found, [component], RamLimit(), False))
    return Observation(reference, feeds, moments)


def report(means: Mapping[str, float], widths: Sequence[tuple[float, str, float]], notes: Sequence[str]) -> str:
    lines = ["| method | error of the layer's output |", "|---|---|"]
    lines += [f"| {name} | {mean:.2e} |" for name, mean in means.items()]
    lines += ["", "| FP16 over the stored weights | widths | summed relative squared error of the output |"]
    lines += ["|---|---|---|", *(f"| {ratio:.2f} | {names} | {error:.1e} |" for ratio, names, error in widths)]
    return "\n".join([*lines, "", *notes]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--calib-count", type=int, default=16, help="prompts that the methods see")
    parser.add_argument("--judge-count", type=int, default=8, help="held-out prompts that judge them")
    given = parser.parse_args()
    spec = resolve(given.model)
    arguments = {"model": str(spec.folder), "counts": [given.calib_count, given.judge_count]}
    with captures_remembered(), Staging(given.output, arguments, force=True) as staging:
        reference = staging.part("reference", partial(write_reference, spec)) / "bundle"
        name = layout_of(spec, ExportSettings().choices).backbone
        recipe = spec.recipe
        seen = observed(spec, staging, "fitting", recipe.path(recipe.prompts), given.calib_count, name)
        unseen = observed(spec, staging, "held-out", recipe.path(recipe.heldout), given.judge_count, name)
        backbone = Backbone.of(spec, reference / name / "model.onnx")
        means = layer_by_layer(backbone, seen.moments_of(name), unseen.moments_of(name))
        options = sensitivity.sensitivities(
            seen.graph(name), backbone.candidates, backbone.weights, seen.feeds_of(name), lambda weight: None,
            Journal(staging.journal("sensitivity"), "rtn"),
        )  # fmt: skip
        widths = chosen_widths(backbone, options)
        ranks = {bits: rank_correlation(backbone, options, seen.moments_of(name), bits) for bits in (4, 8)}
        worst = f"The 12 most sensitive weights have {share_of_worst(options, 12):.0%} of the summed error at 4 bits."
        notes = [worst, *(f"Spearman's correlation at {bits} bits: {rank:.2f}" for bits, rank in ranks.items())]
        write_json(staging.folder / "layers.json", {"methods": means, "widths": widths, "notes": notes})
        write_text(staging.folder / "layers.md", report(means, widths, notes))
        staging.drop(path.name for path in staging.folder.iterdir() if path.is_dir())
    print((given.output / "layers.md").read_text())


if __name__ == "__main__":
    main()
