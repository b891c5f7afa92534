"""A graph of an older opset -> a newer one, by onnx's own converter, without the weights."""

from __future__ import annotations

import onnx_ir as ir

from qsched_edge.errors import QuantizeError

SMALL_TENSOR = 2**12  # bytes; the converter may have to read such ones (axes, shapes)


def opset_of(model: ir.Model) -> int:
    return int(model.opset_imports.get("", 0))


def upgraded(model: ir.Model, opset: int) -> ir.Model:
    """The same graph at `opset`; large tensors are graph inputs while onnx converts, and come back as they were.

    Raises QuantizeError with the converter's reason; `model` is then unchanged.
    """
    import onnx

    held = hold_tensors(model)
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), opset)
        onnx.checker.check_model(converted, full_check=True)
        result = ir.from_proto(converted)
    except Exception as error:  # the converter and the checker raise from several unrelated classes
        release_tensors(model, held)
        raise QuantizeError(f"opset {opset_of(model)} cannot be converted to {opset}: {last_line(error)}") from error
    release_tensors(result, held)
    result.metadata_props.update(model.metadata_props)
    return result


def last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:160]


def hold_tensors(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Turn the main graph's large initializers into inputs, and read the small external ones."""
    held = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        if tensor.nbytes > SMALL_TENSOR:
            held[name] = tensor
            del model.graph.initializers[name]
            value.const_value = None
            value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(value.dtype or tensor.dtype)
            model.graph.inputs.append(value)
        elif isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=name)
    return held


def release_tensors(model: ir.Model, held: dict[str, ir.TensorProtocol]) -> None:
    for value in [v for v in model.graph.inputs if v.name in held]:
        model.graph.inputs.remove(value)
        value.const_value = held[str(value.name)]
        model.graph.register_initializer(value)
