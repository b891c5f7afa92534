"""What the second judge of an ablation sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Judging:
    """What the second judge sees: `prompts` held-out prompts (0: nothing), each with `seeds` noises."""

    prompts: int = 64
    seeds: int = 2
