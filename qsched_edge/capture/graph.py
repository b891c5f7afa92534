"""An nn.Module built on fake tensors -> an ONNX graph that names its weights and holds none of them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qsched_edge import torchvision_schema
from qsched_edge.errors import CaptureError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

OPSET, IR_VERSION = 21, 10  # the newest that onnxruntime, onnxruntime-web and onnxruntime-node all read


@dataclass(frozen=True)
class Axis:
    """A dynamic dimension: `multiple` times an integer called `name`; `example` is the size it is traced with."""

    name: str
    example: int
    multiple: int = 1


@dataclass(frozen=True)
class Port:
    """One input of a graph: its diffusers name, its shape (integers or Axis) and "float32" or "int64"."""

    name: str
    shape: tuple[int | Axis, ...]
    dtype: str = "float32"

    def example(self) -> torch.Tensor:
        import torch

        sizes = [d.example if isinstance(d, Axis) else d for d in self.shape]
        return torch.zeros(sizes, dtype=getattr(torch, self.dtype))


BATCH = Axis("batch", 2)


@dataclass(frozen=True)
class Captured:
    """A graph without weights: initializers carry the checkpoint's tensor names, shapes and no values."""

    model: ir.Model
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def weight_names(self) -> list[str]:
        return [name for name, value in self.model.graph.initializers.items() if value.const_value is None]


def capture(build: Callable[[], torch.nn.Module], inputs: Sequence[Port], outputs: Sequence[str]) -> Captured:
    """Trace `build()` under FakeTensorMode and convert it; no weight is ever allocated.

    `build` returns a module whose forward takes `inputs` by position and whose `network` attribute is the model:
    initializers are named by that model's state dict.
    """
    torchvision_schema.declare()
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad(), quiet():
        module = build().eval()
        arguments = tuple(port.example() for port in inputs)
        try:
            program = torch.export.export(module, arguments, dynamic_shapes=dynamic_shapes(inputs), strict=False)
            exported = torch.onnx.export(
                program,
                args=arguments,
                dynamo=True,
                optimize=False,
                opset_version=OPSET,
                input_names=[port.name for port in inputs],
                output_names=list(outputs),
                verbose=False,
            )
        except Exception as error:  # torch.export and its converter raise from a dozen unrelated classes
            name = type(module.network).__name__
            raise CaptureError(
                f"{name} cannot be captured: {str(error).splitlines()[0]}; use --debug for all"
            ) from error
    assert exported is not None
    return Captured(tidy(exported.model), tuple(port.name for port in inputs), tuple(outputs))


def dynamic_shapes(inputs: Sequence[Port]) -> tuple[Mapping[int, Any], ...]:
    from torch.export import Dim

    # diffusers branches on a batch of 64 and more; below that one graph serves all
    axes = {a.name: Dim(a.name, max=63 if a is BATCH else 4096) for p in inputs for a in p.shape if isinstance(a, Axis)}
    return tuple(
        {
            i: a.multiple * axes[a.name] if a.multiple > 1 else axes[a.name]
            for i, a in enumerate(p.shape)
            if isinstance(a, Axis)
        }
        for p in inputs
    )


def tidy(model: ir.Model) -> ir.Model:
    """Drop values and trace notes of the weights, fold shape arithmetic, rename weights to checkpoint names."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    common.ClearMetadataAndDocStringPass()(model)
    for name, value in list(model.graph.initializers.items()):
        value.const_value = None  # a fake tensor: folding must not try to read it
        value.name = name.removeprefix("network.")
    with quiet():
        optimizer.optimize_ir(model)
    for node in model.graph:
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()
        if node.name:
            node.name = None
    model.ir_version = IR_VERSION
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter's progress notes and deprecation notices are not the user's."""
    loggers = [logging.getLogger(n) for n in ("onnx_ir", "onnxscript", "torch.onnx", "torch.export", "torch.fx")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
