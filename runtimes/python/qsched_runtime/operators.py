"""Which operators a bundle's graph may have, by domain: what the exporter emits for every family, and kin of it that
neither loops nor calls other graphs. This module imports nothing."""

OPERATORS = {
    "": {
        "Abs", "Add", "And", "ArgMax", "ArgMin", "Attention", "AveragePool", "BatchNormalization", "Cast",
        "CastLike", "Ceil", "Clip", "Concat", "Constant", "Conv", "ConvInteger", "ConvTranspose", "Cos", "CumSum",
        "DepthToSpace", "DequantizeLinear", "Div", "DynamicQuantizeLinear", "Einsum", "Equal", "Erf", "Exp",
        "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool",
        "Greater", "GreaterOrEqual", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
        "InstanceNormalization", "IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual",
        "Log", "LogSoftmax", "MatMul", "MatMulInteger", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or",
        "PRelu", "Pad", "Pow", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "RMSNormalization", "Range",
        "Reciprocal", "ReduceL", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu",
        "Reshape", "Resize", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid", "Sign", "Sin", "Size",
        "Slice", "Softmax", "Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh",
        "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
    },
    "com.microsoft": {
        "DequantizeLinear", "GatherBlockQuantized", "MatMulNBits", "MultiHeadAttention", "QuantizeLinear",
    },
}  # fmt: skip
