"""The shipped prompt sets: any beginning of them is a fair sample, and what fits does not decide."""

import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from qsched_edge.prompts import read_prompts

PROMPTS = ROOT / "calib_prompts"
NUMBERS = "a single|a dozen|one|two|three|four|five|six|seven|eight"
STYLES = (
    "painting|drawing|sketch|render|print|poster|pixel art|photograph|stained glass|cut-out|illustration|mosaic|linocut|"
    "mural|gouache|patch|claymation|comic|blueprint|tapestry|tile"
)
TEXTS = r"[A-Z]{2,}|\b\d+\b|titled|letter Q"
PEOPLE = (
    "portrait|man\\b|woman|girl|boy|child|toddler|baker|musician|surgeon|fisherman|dancer|grandmother|cyclist|carpenter|"
    "crowd|scientist|beekeeper|family|potter|mountaineer|choir|barista|sailor|maker|nurse|glassblower|fencer|monk|"
    "blacksmith|player|sweeper"
)


def section_of(prompt: str) -> str:
    """Which of the six kinds of prompts it is, by its words."""
    if len(prompt) > 80:
        return "long sentences"
    if re.search(TEXTS, prompt.replace("3D", "").replace("T-shirt", "")):
        return "text"
    if re.match(rf"({NUMBERS})\b", prompt) and not prompt.startswith("two children"):
        return "counts"
    if re.search(STYLES, prompt):
        return "styles"
    return "people" if re.search(rf"\b({PEOPLE})", prompt) else "subjects"


@pytest.mark.parametrize("name", ["general.txt", "general-heldout.txt"])
def test_the_first_general_prompts_cover_all_sections(name: str) -> None:
    prompts = read_prompts(PROMPTS / name).prompts
    whole = Counter(map(section_of, prompts))
    assert len(whole) == 6
    assert max(whole.values()) - min(whole.values()) <= 1
    for count in (12, 32, 64):
        found = Counter(map(section_of, prompts[:count]))
        assert len(found) == 6
        assert max(found.values()) - min(found.values()) <= 2, (count, found)
