"""Sample pictures from a qsched-edge bundle with numpy and onnxruntime alone."""

from qsched_runtime.errors import BundleError, ProviderError, QSchedError, RequestError
from qsched_runtime.image import png_bytes
from qsched_runtime.sampler import Output, Sampler, Step
from qsched_runtime.schedule import Coefficients, ScheduleTable

__version__ = "0.1.0"
__all__ = [
    "BundleError", "Coefficients", "Output", "ProviderError", "QSchedError", "RequestError", "Sampler", "ScheduleTable",
    "Step", "__version__", "png_bytes",
]  # fmt: skip
