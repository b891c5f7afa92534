"""Everything that stays a float: norms, biases, small tables, and what the recipe keeps."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from qsched_edge.errors import QuantizeError
from qsched_edge.precision import Scheme
from qsched_edge.quantize.emit import Site
from qsched_edge.quantize.encode import WeightRows
from qsched_edge.quantize.layers.kind import LayerKind
from qsched_edge.quantize.store import Packed

SMALL_WEIGHT = 1024  # weights with fewer values (norms, biases) stay float32: a Cast would cost what it saves


class Other(LayerKind):
    """float16 for large weights of less than 32 bits, else float32, whatever reads them."""

    name, noun = "other", "a tensor"

    def encode(self, rows: WeightRows, scheme: Scheme) -> list[Packed]:
        dtype = np.float16 if float_bits(rows.shape, scheme) == 16 else np.float32
        with np.errstate(over="ignore"):
            array = np.concatenate([part.astype(dtype) for part in rows]).reshape(rows.shape)
        if not np.isfinite(array).all():
            raise QuantizeError(f"{rows.name} exceeds float16's range: keep it in 32 bits in the recipe")
        return [Packed.of(rows.name, array)]

    def stored_bytes(self, shape: tuple[int, ...], scheme: Scheme) -> int:
        return prod(shape) * float_bits(shape, scheme) // 8

    def emit(self, site: Site, parts: list[ir.Value]) -> None:
        """The float itself; float16 in a float32 graph goes through a Cast that onnxruntime folds at load."""
        (stored,) = parts
        site.value.replace_all_uses_with(site.widened(stored, site.readers()[0]))

    def precision(self, site: Site) -> str:
        return f"FP{float_bits(site.shape, site.scheme)}"


OTHER = Other()


def float_bits(shape: tuple[int, ...], scheme: Scheme) -> int:
    """What a weight that stays a float is stored in."""
    return 32 if scheme.weight_bits == 32 or prod(shape) < SMALL_WEIGHT else 16
