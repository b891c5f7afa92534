"""Attention becomes one operator where it is what torch's exporter writes, and gives what numpy's arithmetic gives."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qsched_edge.quantize.attention import fuse_attention

N = helper.make_node
HEADS, SIZE = 2, 4
FLOAT = TensorProto.FLOAT


def attention(mask: list[str | int] | None = None, joined: bool = True) -> ir.Model:
    """q [B, S, 8], k and v [B, T, 8]: split into heads, multiplied, joined again, as torch's exporter writes it."""
    rows = {"q": ["batch", "s", 8], "k": ["batch", "t", 8], "v": ["batch", "t", 8]}
    ports: dict[str, list[str | int]] = {**rows, **({"mask": mask} if mask else {})}  # type: ignore[dict-item]
    sizes = {"split": [0, 0, HEADS, SIZE], "one": [-1, 0, SIZE], "kt": [0, HEADS, SIZE, -1], "join": [0, 0, 8]}
    constants = {"c": np.array([SIZE**-0.25], np.float32), "nothing": np.array(0, np.float32)}
    constants |= {name: np.array(size) for name, size in sizes.items()}
    nodes = [N("Reshape", [n, "split"], [f"{n}s"]) for n in "qkv"]
    nodes += [N("Transpose", [f"{n}s"], [f"{n}4"], perm=[0, 2, 1, 3]) for n in "qkv"]
    nodes += [
        N("Mul", ["q4", "c"], ["qc"]), N("Shape", ["k4"], ["ks4"]), N("Slice", ["ks4", "i2", "i3"], ["t1"]),
        N("Concat", ["m1", "t1", "w"], ["joining"], axis=0), N("Reshape", ["k4", "joining"], ["k3"]),
        N("Transpose", ["k3"], ["k3t"], perm=[0, 2, 1]), N("Concat", ["m1", "h", "w", "t1"], ["parting"], axis=0),
        N("Reshape", ["k3t", "parting"], ["kt4"]), N("Mul", ["kt4", "c"], ["kc"]), N("MatMul", ["qc", "kc"], ["s4"]),
        *([N("Add", ["s4", "mask"], ["sm"])] if mask else []), N("Softmax", ["sm" if mask else "s4"], ["p"], axis=-1),
        N("IsNaN", ["p"], ["isnan"]), N("Where", ["isnan", "nothing", "p"], ["pn"]), N("MatMul", ["pn", "v4"], ["o4"]),
    ]  # fmt: skip
    constants |= {name: np.array([n]) for name, n in {"i2": 2, "i3": 3, "m1": -1, "w": SIZE, "h": HEADS}.items()}
    if joined:
        nodes += [N("Transpose", ["o4"], ["ot"], perm=[0, 2, 1, 3]), N("Reshape", ["ot", "join"], ["y"])]
    else:
        nodes += [N("Identity", ["o4"], ["y"])]
    known = {f"{n}4": ["batch", HEADS, "s" if n == "q" else "t", SIZE] for n in "qkv"}
    infos = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in known.items()]
    output: list[str | int | None] = ["batch", "s", 8] if joined else ["batch", HEADS, "s", SIZE]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in ports.items()],
        [helper.make_tensor_value_info("y", FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=infos,
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


def feeds(mask: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {name: rng.standard_normal((3, 5 if name == "q" else 7, 8)).astype(np.float32) for name in "qkv"}
    return found | ({"mask": rng.standard_normal((1, 1, 5, 7)).astype(np.float32)} if mask else {})


def expected(given: dict[str, np.ndarray]) -> np.ndarray:
    """[B, heads, S, size] by the definition, in float64."""
    q, k, v = (given[n].astype(np.float64).reshape(3, -1, HEADS, SIZE).transpose(0, 2, 1, 3) for n in "qkv")
    scores = np.exp(q @ k.swapaxes(2, 3) / SIZE**0.5 + given.get("mask", 0))
    return scores / scores.sum(axis=-1, keepdims=True) @ v


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("mask", [None, [1, 1, "s", "t"]], ids=["open", "masked"])
def test_one_operator_gives_what_the_definition_gives(mask: list[str | int] | None, joined: bool) -> None:
    model = attention(mask, joined)
    assert fuse_attention(model.graph) == 1
    left = ["MultiHeadAttention"] if joined else ["MultiHeadAttention", "Reshape", "Transpose", "Identity"]
    assert [op for op in operators(model) if op != "Constant"] == left
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    given = feeds(mask is not None)
    (found,) = session.run(None, given)
    target = expected(given)
    target = target.transpose(0, 2, 1, 3).reshape(3, 5, 8) if joined else target
    assert np.abs(found - target).max() < 2e-6


@pytest.mark.parametrize("mask", [["batch", 1, 1, "t"], [1, 3, "s", "t"], ["other", 1, "s", "t"]])
def test_a_bias_that_the_operator_does_not_take_leaves_the_graph_as_it_is(mask: list[str | int]) -> None:
    model = attention(mask)
    before = operators(model)
    assert fuse_attention(model.graph) == 0
    assert operators(model) == before


def test_scores_that_somebody_else_reads_stay() -> None:
    model = attention()
    value = next(node for node in model.graph if node.op_type == "MatMul").outputs[0]
    model.graph.outputs.append(value)
    assert fuse_attention(model.graph) == 0
