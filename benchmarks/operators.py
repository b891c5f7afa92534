"""Which quantized operators this onnxruntime runs, and how near to float64: `python -m benchmarks.operators [--times]`.

Every line is one graph with random integers, scales and zero points; the number is the largest error as a share of the
largest output. `--times` adds what 8-bit activations cost a linear layer and a convolution, in CPU time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from qsched_edge.quantize.integers import pack

N = helper.make_node
FLOATS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
GROUPS = (16, 32, 64, 128, 256, 512)


def session(nodes: list[Any], x: np.ndarray, weights: list[Any], opset: int = 21, ir: int = 10) -> Any:
    kinds = {"float32": 1, "float16": 10, "int64": 7}
    graph = helper.make_graph(
        nodes, "probe", [helper.make_tensor_value_info("x", kinds[x.dtype.name], x.shape)],
        [helper.make_tensor_value_info("y", kinds.get(x.dtype.name, 1) if x.dtype != np.int64 else 1, None)], weights,
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def integers(rows: int, width: int, group: int, bits: int, dtype: str = "float32") -> tuple[np.ndarray, ...]:
    """q [rows, width], scale and zero [rows, blocks], and the float64 weights that they stand for."""
    rng, blocks = np.random.default_rng(0), -(-width // group)
    q, zero = (rng.integers(0, 2**bits, (rows, n), dtype=np.uint8) for n in (width, blocks))
    scale, columns = rng.uniform(0.01, 0.02, (rows, blocks)).astype(dtype), np.arange(width) // group
    return q, scale, zero, (q.astype(np.float64) - zero[:, columns]) * scale.astype(np.float64)[:, columns]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


def linear(bits: int, group: int, dtype: str = "float32", level: int = 0, rows: int = 3, size: int = 160) -> float:
    q, scale, zero, weight = integers(24, size, group, bits, dtype)
    padded = np.pad(q, ((0, 0), (0, scale.shape[1] * group - size))).reshape(24, scale.shape[1], group)
    attributes = {"K": size, "N": 24, "bits": bits, "block_size": group, "accuracy_level": level}
    node = N("MatMulNBits", ["x", "q", "s", "z"], ["y"], domain="com.microsoft", **attributes)
    parts = {"q": pack(padded, bits), "s": scale, "z": pack(zero, bits)}
    x = np.random.default_rng(1).standard_normal((rows, size)).astype(dtype)
    made = session([node], x, [numpy_helper.from_array(a, name) for name, a in parts.items()])
    return error(made.run(None, {"x": x})[0], x.astype(np.float64) @ weight.T)


def conv(kind: str, bits: int, group: int, opset: int = 21, ir: int = 10) -> float:
    q, scale, zero, weight = integers(8, 20, group, bits)
    dtype = TensorProto.DataType.Value(kind)
    weights = [
        helper.make_tensor("q", dtype, q.shape, pack(q.reshape(-1), bits).tobytes(), raw=True),
        numpy_helper.from_array(scale, "s"),
        helper.make_tensor("z", dtype, zero.shape, pack(zero.reshape(-1), bits).tobytes(), raw=True),
        numpy_helper.from_array(np.array([8, 20, 1]), "shape"),
    ]
    nodes = [
        N("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1, block_size=group), N("Reshape", ["d", "shape"], ["w"]),
        N("Conv", ["x", "w"], ["y"]),
    ]  # fmt: skip
    x = np.random.default_rng(1).standard_normal((1, 20, 9)).astype(np.float32)
    made = session(nodes, x, weights, opset, ir)
    return error(made.run(None, {"x": x})[0][0], weight @ x[0])


def table(bits: int, group: int, width: int = 192) -> float:
    q, scale, zero, weight = integers(50, width, group, bits)
    attributes = {"bits": bits, "block_size": group, "gather_axis": 0, "quantize_axis": 1}
    node = N("GatherBlockQuantized", ["q", "x", "s", "z"], ["y"], domain="com.microsoft", **attributes)
    parts = {"q": pack(q, bits), "s": scale, "z": pack(zero, bits)}
    x = np.array([0, 3, 49, -1])
    made = session([node], x, [numpy_helper.from_array(a, name) for name, a in parts.items()])
    return error(made.run(None, {"x": x})[0], weight[x])


def probes() -> Iterator[tuple[str, Callable[[], float]]]:
    for bits in (2, 4, 8):
        for group in GROUPS:
            for dtype in FLOATS:
                for level in (0, 4):
                    name = f"MatMulNBits {bits} bits, block {group}, {dtype}, accuracy_level {level}"
                    yield name, lambda b=bits, g=group, d=dtype, level=level: linear(b, g, d, level)
        for group, width in ((16, 192), (64, 192), (64, 256)):
            name = f"GatherBlockQuantized {bits} bits, {-(-width // group)} blocks a row"
            yield name, lambda b=bits, g=group, w=width: table(b, g, w)
    for kind, bits, opset, ir in (("UINT4", 4, 21, 10), ("UINT8", 8, 21, 10), ("UINT2", 2, 25, 13)):
        yield f"DequantizeLinear {kind} in blocks, opset {opset}", lambda a=(kind, bits, 16, opset, ir): conv(*a)


def cpu_seconds(made: Any, x: np.ndarray, runs: int = 5) -> float:
    made.run(None, {"x": x})
    start = time.process_time()
    for _ in range(runs):
        made.run(None, {"x": x})
    return (time.process_time() - start) / runs


def times() -> Iterator[tuple[str, float]]:
    """CPU time as a share of the float32 graph's."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in ((1, 320, 64, 64), (320, 320, 3, 3)))
    plain = [N("Conv", ["x", "w"], ["y"], pads=[1] * 4)]
    rounded = [
        N("DynamicQuantizeLinear", ["x"], ["u", "us", "uz"]), N("DequantizeLinear", ["u", "us", "uz"], ["v"]),
        N("Conv", ["v", "w"], ["y"], pads=[1] * 4),
    ]  # fmt: skip
    stored = [numpy_helper.from_array(weight, "w")]
    base = cpu_seconds(session(plain, x, stored), x)
    yield (
        "Conv 320 -> 320, 3 x 3, 64 x 64, inputs rounded to 8 bits",
        cpu_seconds(session(rounded, x, stored), x) / base,
    )
    a, w = rng.standard_normal((256, 1280)).astype(np.float32), rng.standard_normal((1280, 1280)).astype(np.float32)
    base = cpu_seconds(session([N("MatMul", ["x", "w"], ["y"])], a, [numpy_helper.from_array(w, "w")]), a)
    for bits in (4, 8):
        q, scale, zero, _ = integers(1280, 1280, 64, bits)
        parts = {"q": pack(q.reshape(1280, 20, 64), bits), "s": scale, "z": pack(zero, bits)}
        weights = [numpy_helper.from_array(p, name) for name, p in parts.items()]
        for level in (0, 4):
            attributes = {"K": 1280, "N": 1280, "bits": bits, "block_size": 64, "accuracy_level": level}
            node = N("MatMulNBits", ["x", "q", "s", "z"], ["y"], domain="com.microsoft", **attributes)
            name = f"MatMul 256 x 1280 x 1280 as MatMulNBits {bits} bits, accuracy_level {level}"
            yield name, cpu_seconds(session([node], a, weights), a) / base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", action="store_true", help="measure CPU time as well")
    chosen = parser.parse_args()
    print(f"onnx {onnx.__version__}, onnxruntime {ort.__version__}, CPU")
    for name, probe in probes():
        try:
            print(f"{probe():9.1e}  {name}")
        except Exception as reason:  # onnxruntime's exception classes share no public base
            print(f"     none  {name}: {str(reason).splitlines()[0][-110:]}")
    for name, share in times() if chosen.times else ():
        print(f"{share:9.2f}  times float32's CPU time: {name}")


if __name__ == "__main__":
    main()
