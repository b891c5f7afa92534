"""The page of the evidence: every marker that a part fills is there, and no other text is touched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks.ablation import RUNS
from benchmarks.evidence import MARKER, PARTS, filled

PAGE = ROOT / "docs/evidence.md"


def test_only_what_was_measured_is_written_and_nothing_else_moves() -> None:
    text = "a\n<!-- one -->\nold\n<!-- end -->\nb\n<!-- two 2 -->\nkept\n<!-- end -->\n"
    assert filled(text, {"one": "new\nlines"}) == text.replace("old", "new\nlines")
    assert filled(text, {}) == text
    with pytest.raises(KeyError, match="three"):
        filled(text, {"three": "nowhere"})


def test_the_page_has_a_marker_for_every_question_and_table() -> None:
    text = PAGE.read_text("utf-8")
    names = [name for _, name in MARKER.findall(text)]
    assert len(set(names)) == len(names)
    questions = re.findall(r"^## (\d+)\. .*\?", text, re.MULTILINE)
    assert questions[:9] == [str(n) for n in range(1, 10)]
    assert {f"answer {n}" for n in questions} <= set(names)
    tables = {"gap", "ranks", "both", "full", "passes", "parts", *(f"closed {run.name}" for run in RUNS[1:])}
    assert tables <= set(names)
    assert len(re.findall("<!-- end -->", text)) == len(names)


def test_plots_of_the_page_are_there() -> None:
    for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE.read_text("utf-8")):
        assert (PAGE.parent / target).read_bytes().startswith(b"\x89PNG")


def test_parts_can_be_measured() -> None:
    for module in PARTS.values():
        assert Path(ROOT / f"{module.replace('.', '/')}.py").is_file()
