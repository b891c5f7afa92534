"""Quantizing, inspecting and observing a graph ask one table which operator reads a weight."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model, normal, saved
from onnx import helper

from qsched_edge.foreign.inspection import inspect
from qsched_edge.foreign.listing import SMALL_TENSORS
from qsched_edge.foreign.run import quantize
from qsched_edge.foreign.settings import QuantizeSettings
from qsched_edge.observe.sensitivity import width_choices
from qsched_edge.observe.taps import taps_of
from qsched_edge.precision import Scheme
from qsched_edge.quantize.layers.other import Other
from qsched_edge.quantize.layers.registry import LAYER_KINDS, layer_kinds

N = helper.make_node
W4 = Scheme(4, 32)


class Scaling(Other):
    """A kind that only these tests know: x * w, stored as float16."""

    name, noun, multiplies = "scaling", "a scaling", True
    operators: ClassVar = {"Mul": (1,)}


SCALING = Scaling()


def network(folder: Path) -> Path:
    """Table -> Conv -> Transpose(w) -> MatMul -> Mul, with 2 x 3 ids as input."""
    weights = {
        "table": normal(1400, 96, seed=1),
        "kernel": normal(40, 24, 2, 2, seed=2),
        "w": normal(64, 20, seed=3),
        "s": normal(40, 64, seed=4),
        "picture": np.array([2, 24, 3, 4]),
        "flat": np.array([2, 40, 20]),
    }
    nodes = [
        N("Gather", ["table", "ids"], ["rows"]),
        N("Reshape", ["rows", "picture"], ["pictures"]),
        N("Conv", ["pictures", "kernel"], ["features"], pads=[1, 1, 1, 1]),
        N("Reshape", ["features", "flat"], ["x"]),
        N("Transpose", ["w"], ["turned"], perm=[1, 0]),
        N("MatMul", ["x", "turned"], ["product"]),
        N("Mul", ["product", "s"], ["y"]),
    ]
    return saved(model(nodes, {"ids": ("int64", [2, 3])}, weights, opset=21), folder / "in.onnx")


def answers(graph: Path) -> dict[str, dict[str, str]]:
    """What each of the readers of the table says: weight -> kind."""
    ports = ir.load(graph).graph
    report = quantize(graph, graph.with_name("out.onnx"), QuantizeSettings(W4), force=True, quiet=True)
    candidates = width_choices(ports, lambda name, bits: Scheme(bits)).candidates
    return {
        "quantize": {layer.name: layer.kind for layer in report.layers},
        "before": listed(graph),
        "after": listed(graph.with_name("out.onnx")),
        "widths": {c.name: c.kind.name for c in candidates},
        "observed": {name: "" for tap in taps_of(ports) for name in tap.weights},
    }


def listed(graph: Path) -> dict[str, str]:
    return {w.name: w.kind for w in inspect(graph).graphs[0].weights if w.name != SMALL_TENSORS}


@pytest.fixture
def forgotten() -> Iterator[None]:
    layer_kinds.cache_clear()
    yield
    layer_kinds.cache_clear()


def test_all_agree_on_every_weight(tmp_path: Path) -> None:
    found = answers(network(tmp_path))
    kinds = {"table": "embedding", "kernel": "conv", "w": "linear"}
    assert found["quantize"] == kinds
    assert found["before"] == found["after"] == {**kinds, "s": "other"}
    assert found["widths"] == {"kernel": "conv", "w": "linear"}
    assert list(found["observed"]) == ["kernel", "w"]


def test_a_line_in_the_table_is_known_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    monkeypatch.setitem(LAYER_KINDS, "scaling", f"{__name__}:SCALING")
    found = answers(network(tmp_path))
    assert found["quantize"]["s"] == found["before"]["s"] == found["widths"]["s"] == "scaling"
    assert "s" in found["observed"]


def test_a_kind_that_is_not_in_the_table_is_known_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    monkeypatch.delitem(LAYER_KINDS, "conv")
    found = answers(network(tmp_path))
    assert "kernel" not in {*found["quantize"], *found["widths"], *found["observed"]}
    assert found["before"]["kernel"] == found["after"]["kernel"] == "other"
