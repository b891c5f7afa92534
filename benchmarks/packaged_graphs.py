"""Quantize trained graphs that Python packages carry: `python -m benchmarks.packaged_graphs -o DIR [--bits 4 8]`.

The packages are fetched by `pip download` at the versions below, unpacked and never imported. Every graph gets an input
that it was made for (a page of text, a drawing, a file's bytes, a chord), because the error on noise says little.
Prints a Markdown table: what was quantized, what was left and why, the ratio of the bytes, the error of the outputs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont

from qsched_edge.errors import QSchedError
from qsched_edge.foreign.run import QuantizeReport, quantize
from qsched_edge.foreign.settings import QuantizeSettings
from qsched_edge.precision import Scheme

ROOT = Path(__file__).parent.parent
SENTENCE = "The quick brown fox jumps over 13 lazy dogs."


def page(height: int, width: int, lines: int) -> np.ndarray:
    """float32 [1, 3, height, width] in -1..1: black text on white."""
    image = Image.new("RGB", (width, height), "white")
    size = height // (2 * lines)
    for i in range(lines):
        ImageDraw.Draw(image).text((size, size // 2 + i * 2 * size), SENTENCE, "black", ImageFont.load_default(size))
    return np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1


def drawing(side: int) -> np.ndarray:
    """float32 [1, 3, side, side] in 0..1: the emoji model's picture grid."""
    image = Image.open(ROOT / "models/emoji/grid.png").convert("RGB").resize((side, side))
    return np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255


def source_bytes() -> np.ndarray:
    """int32 [1, 2048]: the first and last 1024 bytes of this file, as Magika reads them."""
    data = Path(__file__).read_bytes()
    return np.frombuffer(data[:1024] + data[-1024:], np.uint8).astype(np.int32)[None]


def chord() -> dict[str, np.ndarray]:
    """32 ms at 16 kHz of four harmonics of 120 Hz, such as a voice has."""
    t = np.arange(576) / 16000
    sound = sum(0.2 / n * np.sin(2 * np.pi * 120 * n * t) for n in (1, 2, 3, 4))
    state = np.zeros((2, 1, 128), np.float32)
    return {"input": np.float32(sound)[None], "state": state, "sr": np.array(16000)}


@dataclass(frozen=True)
class Graph:
    """A graph at `path` inside a wheel; `inputs` makes what it is run on."""

    package: str
    path: str
    inputs: Callable[[], dict[str, np.ndarray]]


GRAPHS = (
    Graph("magika==1.0.3", "magika/models/standard_v3_3/model.onnx", lambda: {"bytes": source_bytes()}),
    Graph("nudenet==3.4.2", "nudenet/320n.onnx", lambda: {"images": drawing(320)}),
    Graph("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx", chord),
    Graph(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        lambda: {"x": page(640, 640, 10)},
    ),
    Graph(
        "rapidocr-onnxruntime==1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        lambda: {"x": page(48, 640, 1)},
    ),
    Graph("ddddocr==1.6.1", "ddddocr/common_det.onnx", lambda: {"images": 255 * (page(416, 416, 6) / 2 + 0.5)}),
    Graph("ddddocr==1.6.1", "ddddocr/common.onnx", lambda: {"input1": page(64, 512, 1)[:, :1]}),
)


def unpacked(package: str, folder: Path) -> Path:
    """The wheel's files in `folder`/name-version."""
    target = folder / package.replace("==", "-")
    if not target.exists():
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder / "wheels")]
        subprocess.run([*download, "--only-binary", ":all:", package], check=True)
        name = package.replace("==", "-").replace("-", "_").rpartition("_")[0]
        (wheel,) = (folder / "wheels").glob(f"{name}-{package.rpartition('=')[2]}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    return target


def row(graph: Graph, bits: int, folder: Path) -> str:
    """One line of the table."""
    path = unpacked(graph.package, folder) / graph.path
    found = onnx.load(path, load_external_data=False)
    producer = f"{found.producer_name or 'unnamed'} {found.producer_version}".strip()
    head = f"| {graph.package.replace('==', ' ')}, {path.name} | {producer}, {found.opset_import[0].version}"
    inputs = folder / f"{path.stem}.npz"
    np.savez(inputs, **graph.inputs())
    try:
        report = quantize(
            path, folder / f"{path.stem}-w{bits}.onnx", QuantizeSettings(Scheme(bits), inputs), True, True
        )
    except QSchedError as error:
        return f"{head} | | {error} | | |"
    return f"{head} | {path.stat().st_size:,} | W{bits}A16: {counts(report)} | {left(report)} | {figures(report)} |"


def counts(report: QuantizeReport) -> str:
    kinds = [layer.kind for layer in report.layers]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))


def left(report: QuantizeReport) -> str:
    """Bytes that stay by reason, without the small ones."""
    reasons: dict[str, int] = {}
    for weight in report.left:
        reasons[weight.reason.split(":")[0]] = reasons.get(weight.reason.split(":")[0], 0) + weight.bytes
    return "; ".join(f"{size:,} bytes {reason}" for reason, size in reasons.items() if size > 2**16) or "small ones"


def figures(report: QuantizeReport) -> str:
    assert report.difference is not None  # no memory limit was given
    return f"{report.ratio:.2f} | {report.difference.relative:.1e}, {report.difference.sqnr:.1f} dB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 8])
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    print("| graph | producer, opset | bytes | quantized | left | ratio | error |\n|---|---|---|---|---|---|---|")
    for graph in GRAPHS:
        for bits in given.bits:
            print(row(graph, bits, given.output), flush=True)


if __name__ == "__main__":
    main()
