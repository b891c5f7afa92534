"""The map of noise streams: no two purposes and choices share one, and what would leave its range is refused."""

from itertools import pairwise

import pytest
from conftest import cli

from qsched_edge.ablate.settings import Judging
from qsched_edge.errors import RequestError
from qsched_edge.evaluate.settings import EvaluationSettings
from qsched_edge.noise import PROMPTS, SEEDS, check_prompts, check_seed, deciding, fitting, observing, reporting


def test_no_purpose_meets_another() -> None:
    purposes = (fitting, deciding, reporting)
    ranges = sorted((of(seed, 0), of(seed, PROMPTS - 1)) for of in purposes for seed in range(SEEDS))
    ranges.append((observing(0), observing(SEEDS * PROMPTS - 1)))
    assert all(before[1] < after[0] for before, after in pairwise(ranges))
    assert len(ranges) == len(purposes) * SEEDS + 1


def test_streams_are_those_of_all_published_numbers() -> None:
    assert (fitting(0), deciding(0), reporting(1, 2), observing(3)) == (0, 1_000_000, 2_010_002, 3_000_003)


def test_what_leaves_a_range_is_refused() -> None:
    for seed in (-1, SEEDS):
        with pytest.raises(RequestError, match="use 0 to 99"):
            check_seed(seed)
    with pytest.raises(RequestError, match="10001 is too many"):
        check_prompts("prompts", PROMPTS + 1)
    for settings in (EvaluationSettings, Judging):
        with pytest.raises(RequestError, match="101 is too many"):
            settings(seeds=SEEDS + 1)
    done = cli("evaluate", "nowhere", "-o", "out", "--seeds", 101)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
