"""A captured graph on disk is the one in memory, and an export traces each component once, however often it resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qsched_edge.capture import stored
from qsched_edge.capture.graph import BATCH, Captured, Port, capture
from qsched_edge.checkpoint.recipes import resolve
from qsched_edge.checkpoint.weights import Weights
from qsched_edge.errors import QuantizeError
from qsched_edge.export import graphs
from qsched_edge.export.run import export
from qsched_edge.export.settings import ExportSettings, target_of
from qsched_edge.observe.settings import ObservedPrompts
from qsched_edge.precision import Scheme
from qsched_edge.quantize.rewrite import write_graph


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.Linear(64, 8)


class Wrapped(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.network.conv(x).mean(dim=(2, 3))
        return self.network.linear(torch.cat([y, y.new_full((1, 64), 2.0)]))


def captured() -> Captured:
    return capture(Wrapped, [Port("x", (BATCH, 3, 8, 8))], ["y"])


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_a_graph_read_back_is_written_as_the_same_bytes(bits: int, tmp_path: Path) -> None:
    """Names of the nodes that quantization adds included."""
    torch.manual_seed(0)
    save_file(Wrapped().network.state_dict(), tmp_path / "model.safetensors")
    found, written = captured(), {}
    stored.save(found, tmp_path)
    assert not (tmp_path / stored.NOWHERE).exists()
    for name, graph in (("memory", found), ("disk", stored.load(tmp_path))):
        (tmp_path / name).mkdir()
        write_graph(graph, Weights([tmp_path / "model.safetensors"]), lambda *_: Scheme(bits, 32), tmp_path / name)
        written[name] = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
    assert (graph.inputs, graph.outputs) == (("x",), ("y",))
    assert written["memory"] == written["disk"]
    assert len(written["disk"]["model.onnx_data"]) > np.prod((64, 3, 3, 3)) * bits / 8


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the components that were traced since."""
    names: list[str] = []
    capture_of = graphs.captured_of
    monkeypatch.setattr(graphs, "captured_of", lambda plan: (names.append(plan.name), capture_of(plan))[1])
    return names


def test_a_target_takes_no_second_trace_even_where_another_was_out_of_reach(
    recipe: Path, tmp_path: Path, traced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ExportSettings(4, observed=ObservedPrompts(count=2), target=target_of(None, 20.0))
    spec = resolve(str(recipe))
    with pytest.raises(QuantizeError, match="cannot be reached"):
        export(spec, settings, tmp_path / "x", quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == [".x.partial"]
    assert {p.name for p in (tmp_path / ".x.partial").glob("[!.]*")} == {"stage.json", "unet.graph"}
    folder = export(spec, replace(settings, target=target_of(None, 3.0)), tmp_path / "x", quiet=True)
    assert sorted(traced) == ["text_encoder", "unet", "vae_decoder"]
    assert list(tmp_path.iterdir()) == [folder]
    assert not list(folder.glob("*.graph"))
