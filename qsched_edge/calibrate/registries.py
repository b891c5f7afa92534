"""What can be named in a calibration, as literals. This module imports nothing of the project."""

from __future__ import annotations

SEARCHES = {
    "grid": "qsched_edge.calibrate.searches.grid:search",
    "line": "qsched_edge.calibrate.searches.line:search",
    "free": "qsched_edge.calibrate.searches.free:search",
    "channel": "qsched_edge.calibrate.searches.channel:search",
    "gradient": "qsched_edge.calibrate.searches.gradient:search",
    "blackbox": "qsched_edge.calibrate.searches.blackbox:search",
    "closed": "qsched_edge.calibrate.searches.closed:search",
}
AUTO = ("free",)  # what `auto` runs: see the measurements in docs/calibration.md
STARTED = ("free", "channel", "gradient", "blackbox")  # begin at the problem's `start`, the others nowhere
STARTS = ("identity", "closed")

JACOBIANS = {
    "none": "J = 0: exact for the last step, a surrogate before it; no extra pass",
    "symmetric": "J^T u = J u, true of an ideal denoiser, by one difference along u: steps - 1 extra passes",
    "forward": "differences along every coefficient's tangent: exact, steps (steps - 1) extra passes, scalars only",
}

ENGINES = {
    "local": "qsched_edge.calibrate.engines.local:Local",
    "ray": "qsched_edge.calibrate.engines.ray:Ray",
}

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}  # by device, torch's name of it
MEMORY_MODES = ("low", "fast")
