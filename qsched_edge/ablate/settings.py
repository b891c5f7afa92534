"""What an ablation is asked to do, checked before anything is read, and the questions that its rows answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from qsched_edge import noise
from qsched_edge.calibrate.settings import CalibrationSettings
from qsched_edge.errors import RequestError, unknown_name

EQUAL_PASSES, LOSS, COLUMNS, COUNTS = "searches at equal passes", "loss", "columns", "fitting prompts"
GROUPS = {"searches": EQUAL_PASSES, "losses": LOSS, "columns": COLUMNS, "prompts": COUNTS}


@dataclass(frozen=True)
class Judging:
    """What the second judge sees: `prompts` held-out prompts (0: nothing), each with `seeds` noises."""

    prompts: int = 64
    seeds: int = 2

    def __post_init__(self) -> None:
        noise.check_prompts("judge_prompts", self.prompts)
        noise.check_noises("judge_seeds", self.seeds)


@dataclass(frozen=True)
class AblationSettings:
    """`calibration` holds for every row, but for what the row asks about; `groups` are names of GROUPS."""

    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    judging: Judging = Judging()
    groups: tuple[str, ...] = tuple(GROUPS)

    def __post_init__(self) -> None:
        for name in self.groups:
            if name not in GROUPS:
                raise RequestError(unknown_name("group of rows", name, GROUPS))
