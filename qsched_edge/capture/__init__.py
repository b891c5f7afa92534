"""Architectures -> ONNX graphs without weights, one architecture per file."""
