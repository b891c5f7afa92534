"""Few-step text-to-image models for the edge: export, quantize, calibrate, evaluate, bundle."""

from qsched_runtime import __version__

__all__ = ["__version__"]
