"""Quantize what other exporters write: `python -m benchmarks.foreign_graphs [--bits 4] [--only NAME]`.

The models are built here with random weights, so the figures say what the rewriting does, not what a picture or a
sentence loses. scikit-learn's needs `pip install skl2onnx`; what is not installed is left out by name.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qsched_edge import torchvision_schema

torchvision_schema.declare()

import onnx
import torch

from qsched_edge.errors import QSchedError
from qsched_edge.foreign.run import quantize
from qsched_edge.foreign.settings import QuantizeSettings
from qsched_edge.precision import Scheme


def scripted(module: torch.nn.Module, example: torch.Tensor, path: Path, opset: int, axes: dict[int, str]) -> Path:
    """The exporter of torch before 2.5, which most published graphs come from."""
    torch.onnx.export(
        module.eval(), (example,), path, dynamo=False, opset_version=opset, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": axes},
    )  # fmt: skip
    return path


def mobilenet(folder: Path) -> Path:
    """Depthwise convolutions, hard-swish, opset 13."""
    from torchvision.models import mobilenet_v3_small

    return scripted(mobilenet_v3_small(weights=None), torch.zeros(1, 3, 64, 64), folder / "m.onnx", 13, {0: "batch"})


class Language(torch.nn.Module):
    """A small transformer whose table is also its output projection."""

    def __init__(self, words: int = 8192, width: int = 256) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.table, self.layers = torch.nn.Embedding(words, width), torch.nn.TransformerEncoder(layer, 2)
        self.recurrent = torch.nn.LSTM(width, width, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.recurrent(self.layers(self.table(x)))[0] @ self.table.weight.T


def language(folder: Path) -> Path:
    """Table shared with the output, attention, LSTM, opset 17."""
    ids = torch.zeros(1, 16, dtype=torch.long)
    return scripted(Language(), ids, folder / "l.onnx", 17, {1: "words"})


def resnet(folder: Path) -> Path:
    """torch's newer exporter, external data, opset 18."""
    from torchvision.models import resnet18

    program = torch.onnx.export(
        resnet18(weights=None).eval(), (torch.zeros(1, 3, 64, 64),), dynamo=True, opset_version=18, verbose=False
    )
    assert program is not None
    program.save(folder / "r.onnx", external_data=True)
    return folder / "r.onnx"


def perceptron(folder: Path) -> Path:
    """scikit-learn's MLPRegressor through skl2onnx."""
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPRegressor

    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 64)).astype(np.float32)
    fitted = MLPRegressor(hidden_layer_sizes=(256, 256), max_iter=5).fit(x, x[:, :3])
    (folder / "p.onnx").write_bytes(to_onnx(fitted, x[:1]).SerializeToString())
    return folder / "p.onnx"


def dynamic_int8(folder: Path) -> Path:
    """The language model after onnxruntime's own dynamic quantization."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(language(folder), folder / "q.onnx", op_types_to_quantize=["MatMul"])
    return folder / "q.onnx"


def old_caffe2(folder: Path) -> Path:
    """A graph of onnx's own tests, opset 9."""
    return Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"


GRAPHS: dict[str, Callable[[Path], Path]] = {
    "mobilenet-v3 (torch.onnx, TorchScript)": mobilenet,
    "transformer (torch.onnx, TorchScript)": language,
    "resnet-18 (torch.onnx, dynamo)": resnet,
    "perceptron (skl2onnx)": perceptron,
    "transformer (onnxruntime quantize_dynamic)": dynamic_int8,
    "resnet-50 (caffe2)": old_caffe2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--activation-bits", type=int, default=16)
    parser.add_argument("--only", default="", help="part of a name")
    chosen = parser.parse_args()
    scheme = Scheme(chosen.bits, activation_bits=chosen.activation_bits)
    torch.manual_seed(0)
    for name, build in GRAPHS.items():
        if chosen.only not in name:
            continue
        print(f"\n{name}: {(build.__doc__ or '').splitlines()[0]}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                graph = build(Path(folder))
                found = onnx.load(graph, load_external_data=False)
                print(f"producer {found.producer_name} {found.producer_version}, opset {found.opset_import[0].version}")
                print(quantize(graph, Path(folder) / "out.onnx", QuantizeSettings(scheme), quiet=True).text())
            except ModuleNotFoundError as error:
                print(f"left out: {error.name} is not installed")
            except QSchedError as error:
                print(f"refused: {error}")


if __name__ == "__main__":
    main()
