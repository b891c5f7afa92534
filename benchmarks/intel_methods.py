"""Intel Neural Compressor's whole-graph methods beside this project's schemes.

`python -m benchmarks.intel_methods emoji -o DIR` writes intel_methods.md and intel_methods.json.

All rows quantize the backbone of the same 32-bit bundle, keep the recipe's weights in float and run in the shipped
sampler with that bundle's text encoder and decoder. Weights in integers of all layers; bytes with the graph; relative
error of the network output along the 32-bit trajectory on held-out prompts; CPU time of one call, batch 1, as a ratio
to float32's, all graphs taking turns; concept accuracy and Fréchet distance with paired intervals of the differences
to float32. A stopped run goes on at the row where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from qsched_runtime import Coefficients, Sampler
from qsched_runtime import manifest as manifests
from qsched_runtime.sessions import Feeds, Graph

from benchmarks.methods import asked_of, interval, relative_errors, sampled
from benchmarks.remembered import captures_remembered
from qsched_edge.checkpoint.recipes import ModelSpec, read_json, resolve
from qsched_edge.evaluate import cells
from qsched_edge.evaluate.contrasts import contrast
from qsched_edge.evaluate.sizes import fp16_bytes
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings
from qsched_edge.foreign.inspection import inspect
from qsched_edge.observe.observation import write_feeds
from qsched_edge.observe.settings import ObservedPrompts
from qsched_edge.prompts import read_prompts
from qsched_edge.quantize import whole_graph
from qsched_edge.quantize.feeds import read_feeds, recorded, spread
from qsched_edge.quantize.integers import pack, unpack
from qsched_edge.quantize.rewrite import GRAPH
from qsched_edge.work.staging import Staging, write_json, write_text

ROUNDS = 15
REFERENCE = "float32"


@dataclass(frozen=True)
class Row:
    """`ours` are the bits of this project's round-to-nearest; `config` Neural Compressor's; `weight_only` its
    algorithm for linear layers at 4 bits in groups of 32."""

    name: str
    ours: tuple[int, int] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    weight_only: str = ""


ROWS = (
    Row("rtn W8A16 g64", (8, 16)),
    Row("rtn W8A8 g64", (8, 8)),
    Row("rtn W4A16 g64", (4, 16)),
    Row("rtn W4A8 g64", (4, 8)),
    Row("INC SmoothQuant, QDQ", config=whole_graph.SMOOTHQUANT),
    Row("INC static INT8, QDQ", config=whole_graph.STATIC),
    Row("INC dynamic INT8", config={"approach": "dynamic", "reduce_range": False}),
    Row("INC RTN, linear W4 g32", weight_only="RTN"),
    Row("INC GPTQ, linear W4 g32", weight_only="GPTQ"),
    Row("INC AWQ, linear W4 g32", weight_only="AWQ"),
    Row("INC static INT8, QDQ, all operators", config={**whole_graph.STATIC, "op_type_dict": None}),
    Row("INC static INT8, QLinear", config={**whole_graph.STATIC, "quant_format": "default"}),
)


@dataclass(frozen=True)
class Study:
    """The model, its 32-bit bundle, files of the backbone's recorded feeds, held-out prompts and seeds of each."""

    spec: ModelSpec
    reference: Path
    feeds: Sequence[Path]
    prompts: tuple[str, ...]
    seeds: int

    @property
    def backbone(self) -> str:
        return manifests.read(self.reference).backbone

    @property
    def graph(self) -> Path:
        return self.reference / self.backbone / GRAPH

    def kept(self, weight: str) -> bool:
        return self.spec.recipe.scheme(self.backbone, weight, 4, "rtn").weight_bits > 8


def write_reference(spec: ModelSpec, folder: Path) -> None:
    if not (folder / "bundle").exists():
        export(spec, ExportSettings(32, portable=True), folder / "bundle")


def write_row(study: Study, row: Row, folder: Path) -> None:
    """`folder`/model.onnx, its bytes, errors and pictures' metrics."""
    if row.ours:
        settings = ExportSettings(row.ours[0], activation_bits=row.ours[1])
        if not (folder / "bundle").exists():
            export(study.spec, settings, folder / "bundle")
        for file in (folder / "bundle" / study.backbone).glob(f"{GRAPH}*"):
            file.replace(folder / file.name)
    elif row.name != REFERENCE:
        onnx.save(by_neural_compressor(study, row, folder), folder / GRAPH)
    measure(study, row.name, study.graph if row.name == REFERENCE else folder / GRAPH, folder)


def by_neural_compressor(study: Study, row: Row, folder: Path) -> onnx.ModelProto:
    source = whole_graph.compressor_graph(study.graph, folder / "whole.onnx")
    config = dict(row.config) | {"op_name_dict": dict.fromkeys(source.operators(study.kept), whole_graph.KEPT_FLOAT)}
    if row.weight_only:
        weight = {"bits": 4, "group_size": 32, "scheme": "asym", "algorithm": row.weight_only}
        config |= {"approach": "weight_only", "op_type_dict": {".*": {"weight": weight}}}
        # AWQ fails on widths that are no multiple of the group, and on layers that read an input of the graph
        fed = {node.name for node in source.layers if node.input[0] in source.types}
        for name in source.operators(lambda weight: weight in fed and not study.kept(weight)):
            config["op_name_dict"][name] = {"weight": {**weight, "algorithm": "RTN"}}
    model = whole_graph.fitted(source, config, spread(study.feeds, whole_graph.SCALED_CALLS))
    source.path.unlink()
    repack(model)
    whole_graph.slim(model)
    return model


def repack(model: onnx.ModelProto) -> None:
    """Neural Compressor packs 4-bit zero points flat; MatMulNBits wants each row to begin with a byte."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and len(node.input) > 3 and node.input[3]:
            given, zero = {a.name: a.i for a in node.attribute}, constants[node.input[3]]
            blocks = -(-given["K"] // given["block_size"])
            values = unpack(numpy_helper.to_array(zero).reshape(-1), 4, given["N"] * blocks)
            zero.CopyFrom(numpy_helper.from_array(pack(values.reshape(-1, blocks), 4).reshape(-1), zero.name))


def measure(study: Study, name: str, graph: Path, folder: Path) -> None:
    """numbers.json, and cell.npz with the pictures' metrics."""
    reference = Sampler.from_pretrained(study.reference)
    graphs = {**reference.graphs, study.backbone: Graph(graph, ["CPUExecutionProvider"])}
    sampler = Sampler(reference.manifest, graphs, reference.tokenizers)
    size = sum(file.stat().st_size for file in graph.parent.glob(f"{GRAPH}*"))
    (summary,) = inspect(graph).graphs
    layers = [weight for weight in summary.weights if weight.kind in ("linear", "conv")]
    integers = {kind: sum(w.bits <= 8 for w in layers if w.kind == kind) for kind in ("linear", "conv")}
    errors = relative_errors(reference, sampler, study.prompts)
    numbers = {"name": name, "bytes": size, "integers": integers, "layers": len(layers), "errors": errors}
    write_json(folder / "numbers.json", numbers)
    identity = Coefficients.identity(reference.manifest.default_steps)
    asked = asked_of(study.spec, study.prompts, study.seeds)
    cells.write_cell(sampler, identity, folder, asked, lambda n: None)


def times(graphs: Mapping[str, Path], feeds: Path) -> dict[str, float]:
    """Median over the rounds of CPU time over float32's in the same round; batch 1, one thread."""
    loaded = {name: Graph(path, ["CPUExecutionProvider"], threads=1) for name, path in graphs.items()}
    given = {name: array[:1] if array.ndim else array for name, array in read_feeds(feeds).items()}
    taken = np.array([[seconds(graph, given) for graph in loaded.values()] for _ in range(ROUNDS + 1)])[1:]
    ratios = np.median(taken / taken[:, list(loaded).index(REFERENCE)][:, None], axis=0)
    return dict(zip(loaded, ratios.tolist(), strict=True))


def seconds(graph: Callable[[Feeds], Feeds], feeds: Feeds) -> float:
    start = time.process_time()
    graph(feeds)
    return time.process_time() - start


def row_of(study: Study, folder: Path, base: Path, ratio: float, half: int) -> dict[str, Any]:
    numbers = read_json(folder / "numbers.json")
    asked = asked_of(study.spec, study.prompts, study.seeds)
    judged, before = sampled(folder, asked), sampled(base, asked)
    found = {kind: float(np.mean(errors)) for kind, errors in numbers.pop("errors").items()}
    pictures = {name: float(judged[name][0]) for name in ("top1", "frechet")}
    compared = {"base": REFERENCE, "differences": contrast(judged, before)}
    return {**numbers, **found, **pictures, **compared, "time": ratio, "ratio": half / numbers["bytes"]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| backbone | weights in integers | bytes | FP16 over it | output error | latents error | CPU time | top-1 "
        "| Fréchet |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        counts = ", ".join(f"{n} {kind}" for kind, n in row["integers"].items())
        columns = [row["name"], f"{counts} of {row['layers']}", f"{row['bytes']:,}", f"{row['ratio']:.2f}"]
        columns += [f"{row['output']:.4f}", f"{row['latents']:.4f}", f"{row['time']:.2f}"]
        columns += [f"{row['top1']:.1%} ({interval(row, 'top1', '.1%')})"]
        columns += [f"{row['frechet']:.2f} ({interval(row, 'frechet', '.2f')})"]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines) + "\n\nIn brackets: 95 % interval of the paired difference to float32.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--calib-count", type=int, default=64)
    given = parser.parse_args()
    spec = resolve(given.model)
    heldout = read_prompts(spec.recipe.path(spec.recipe.heldout))
    arguments = {"model": str(spec.folder), "prompts": heldout.sha256, "settings": [given.prompts, given.seeds]}
    calibration = ObservedPrompts(count=given.calib_count)
    with (
        captures_remembered(),
        Staging(given.output, {**arguments, "count": given.calib_count}, force=True) as staging,
    ):
        reference = staging.part("reference", partial(write_reference, spec)) / "bundle"
        prompts = calibration.prompt_set(spec)
        feeds = staging.part("feeds", partial(write_feeds, reference, prompts, calibration.count, False))
        study = Study(spec, reference, (), heldout.first(given.prompts), given.seeds)
        study = replace(study, feeds=recorded(feeds, study.backbone))
        rows = (Row(REFERENCE), *ROWS)
        folders = {row.name: staging.part(row.name, partial(write_row, study, row)) for row in rows}
        graphs = {name: study.graph if name == REFERENCE else folder / GRAPH for name, folder in folders.items()}
        ratios = times(graphs, study.feeds[0])
        half = fp16_bytes(spec, ExportSettings().choices)[study.backbone]
        found = [row_of(study, folders[n], folders[REFERENCE], ratios[n], half) for n in folders]
        write_json(staging.folder / "intel_methods.json", found)
        write_text(staging.folder / "intel_methods.md", table(found))
        staging.drop(path.name for path in staging.folder.iterdir() if path.is_dir())
    print((given.output / "intel_methods.md").read_text())


if __name__ == "__main__":
    main()
