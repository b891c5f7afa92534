"""Where calibration computes: onnxruntime's provider and torch's device in one choice.

On a device other than the processor the network's inputs and outputs stay there: onnxruntime reads and writes torch's
memory through IO binding, and only the latents of a step cross over, since the shipped update is numpy's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qsched_runtime import Sampler
from qsched_runtime.sessions import Feeds, Graph

from qsched_edge.calibrate.place import Place
from qsched_edge.calibrate.registries import PROVIDERS

if TYPE_CHECKING:
    import torch


def open_sampler(folder: Path, place: Place) -> Sampler:
    """The bundle's sampler there."""
    on_processor = place.device == "cpu"
    providers = place.providers if on_processor else (PROVIDERS[place.device], PROVIDERS["cpu"])
    sampler = Sampler.from_pretrained(folder, providers=providers, memory=place.memory, threads=place.threads)
    if on_processor:
        return sampler
    backbone = sampler.backbone.name
    return Sampler(
        sampler.manifest,
        {**sampler.graphs, backbone: BoundGraph(sampler.graphs[backbone], place.device)},
        sampler.tokenizers,
    )


class BoundGraph:
    """A graph whose inputs and outputs live in torch's memory on `device`; fixed inputs are uploaded once.

    A drop-in for `Graph`: `graph({name: array}) -> {name: array}`.
    """

    def __init__(self, graph: Any, device: str) -> None:
        assert isinstance(graph, Graph)
        self.graph, self.device = graph, device
        self.uploaded: dict[str, tuple[Any, torch.Tensor]] = {}

    def __call__(self, feeds: Feeds) -> Feeds:
        outputs = self.on_device({name: self._upload(name, feeds[name]) for name in self.graph.inputs})
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}

    def on_device(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors on the device in, tensors on the device out; nothing is copied."""
        binding = self.graph.session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_input(name, self.device, 0, self.graph.inputs[name], tuple(tensor.shape), tensor.data_ptr())
        for name in self.graph.outputs:
            binding.bind_output(name, self.device)
        binding.synchronize_inputs()
        self.graph.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return {n: as_tensor(v) for n, v in zip(self.graph.outputs, binding.get_outputs(), strict=True)}

    def _upload(self, name: str, values: np.ndarray) -> torch.Tensor:
        """The array on the device; one that was uploaded last time is not sent again."""
        import torch

        known = self.uploaded.get(name)
        if known is None or known[0] is not values:
            array = np.ascontiguousarray(values, self.graph.inputs[name])
            self.uploaded[name] = values, torch.from_numpy(array).to(self.device)
        return self.uploaded[name][1]


def as_tensor(value: Any) -> torch.Tensor:
    """An onnxruntime value as a torch tensor over the same memory, by DLPack."""
    from torch.utils.dlpack import from_dlpack

    return from_dlpack(value._ortvalue.to_dlpack())
