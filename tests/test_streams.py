"""The map of noise streams: no two purposes and choices share one, and what would leave its range is refused."""

from itertools import pairwise, product

import pytest
from conftest import cli

from qsched_edge.errors import RequestError
from qsched_edge.evaluate.settings import EvaluationSettings
from qsched_edge.noise import CHOICES, PROMPTS, PURPOSES, check_prompts, first_stream, streams


def test_no_purpose_meets_another() -> None:
    ranges = sorted((streams(p, PROMPTS, c) for p, c in product(PURPOSES, range(CHOICES))), key=lambda r: r.start)
    assert all(before.stop <= after.start for before, after in pairwise(ranges))
    assert len(ranges) == len(PURPOSES) * CHOICES


def test_streams_are_those_of_all_published_numbers() -> None:
    assert [first_stream(purpose) for purpose in PURPOSES] == [0, 1_000_000, 2_000_000, 3_000_000]
    assert list(streams("reporting", 2, choice=1)) == [2_010_000, 2_010_001]


def test_what_leaves_a_range_is_refused() -> None:
    for seed in (-1, CHOICES):
        with pytest.raises(RequestError, match="use 0 to 99"):
            first_stream("fitting", seed)
    with pytest.raises(RequestError, match="10001 is too many"):
        check_prompts("prompts", PROMPTS + 1)
    with pytest.raises(RequestError, match="more would meet noise of other purposes"):
        EvaluationSettings(seeds=CHOICES + 1)
    done = cli("evaluate", "nowhere", "-o", "out", "--seeds", 101)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
