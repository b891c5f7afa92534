"""Sample pictures from a qsched-edge bundle with numpy and onnxruntime alone.

Names are imported when they are first used: what only reads an error or the version waits for neither library.
onnxruntime reports home from version 1.31 on unless ORT_DISABLE_TELEMETRY is set before it is imported: it is set here.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from qsched_runtime.errors import BundleError, ProviderError, QSchedError, RequestError

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from qsched_runtime.image import png_bytes
    from qsched_runtime.output import Output, Step
    from qsched_runtime.sampler import Sampler
    from qsched_runtime.schedule import Coefficients, ScheduleTable

__version__ = "0.1.0"
__all__ = [
    "BundleError", "Coefficients", "Output", "ProviderError", "QSchedError", "RequestError", "Sampler", "ScheduleTable",
    "Step", "__version__", "png_bytes",
]  # fmt: skip
OWNERS = {
    "png_bytes": "image", "Output": "output", "Sampler": "sampler", "Step": "output", "Coefficients": "schedule",
    "ScheduleTable": "schedule",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{OWNERS[name]}"), name)
