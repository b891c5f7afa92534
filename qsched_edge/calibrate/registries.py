"""What can be named in a calibration, as literals. This module imports nothing of the project."""

from __future__ import annotations

SEARCHES = {
    "timesteps": "qsched_edge.calibrate.searches.timesteps:search",
    "noise": "qsched_edge.calibrate.searches.noise:search",
    "grid": "qsched_edge.calibrate.searches.grid:search",
    "line": "qsched_edge.calibrate.searches.line:search",
    "free": "qsched_edge.calibrate.searches.free:search",
    "channel": "qsched_edge.calibrate.searches.channel:search",
    "gradient": "qsched_edge.calibrate.searches.gradient:search",
    "blackbox": "qsched_edge.calibrate.searches.blackbox:search",
    "closed": "qsched_edge.calibrate.searches.closed:search",
}
# columns of the schedule, and the search that moves each; c is c_x and c_eps
COLUMNS = {"timesteps": "timesteps", "c_z": "noise", "c": "free"}
AUTO = ("timesteps",)  # the columns that `auto` moves, one after the other: see docs/calibration.md
GUARDED = ("c",)  # where nothing decides but nearness to full precision, which other timesteps leave
STARTED = ("noise", "free", "channel", "gradient", "blackbox")  # begin at the problem's `start`, the others at stock
STARTS = ("identity", "closed", "previous")
ACCEPTS = ("gate", "loss")  # by what a proposal ships: the judges of the gate too, or the loss alone as in the paper

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
MEMORY_MODES = ("auto", "low", "fast", "sequential")
