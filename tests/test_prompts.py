"""The shipped prompt sets: any beginning of them is a fair sample, and what fits does not decide."""

import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from qsched_edge.calibrate.inputs import prompt_sets
from qsched_edge.calibrate.safeguards import shared
from qsched_edge.checkpoint.recipes import resolve
from qsched_edge.errors import PromptsError
from qsched_edge.prompts import read_prompts
from training.captions import combinations

PROMPTS = ROOT / "calib_prompts"
NUMBERS = "a single|a dozen|one|two|three|four|five|six|seven|eight"
STYLES = (
    "painting|drawing|sketch|render|print|poster|pixel art|photograph|stained glass|cut-out|illustration|mosaic|"
    "linocut|mural|gouache|patch|claymation|comic|blueprint|tapestry|tile"
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


KNOWN = {"a beer mug, noto style", "a shield, noto style"}


@pytest.mark.parametrize(("name", "shared"), [("emoji", KNOWN), ("general", set())])
def test_what_fits_does_not_decide(name: str, shared: set[str]) -> None:
    fit, held = (read_prompts(PROMPTS / f"{name}{kind}.txt").prompts for kind in ("", "-heldout"))
    assert set(fit) & set(held) == shared
    assert (len(set(fit)), len(set(held))) == (len(fit), len(held))


def test_the_emoji_sets_say_how_much_of_them_training_has_seen() -> None:
    held = read_prompts(PROMPTS / "emoji-heldout.txt").prompts
    new = {c.caption for c in combinations() if c.held_out}
    seen = [p for p in held if p not in new]
    assert (len(held), len(seen)) == (264, 17)
    header = (PROMPTS / "emoji-heldout.txt").read_text().split("\na ")[0]
    assert "247 of 264 are combinations that neither training nor fitting has seen" in header
    assert "the other 17" in header
    first = set(held[:256])  # what docs/evidence.md was measured with
    assert len(first & set(seen)) == 16
    assert first & set(read_prompts(PROMPTS / "emoji.txt").first(32)) == {"a beer mug, noto style"}


def test_calibrate_says_what_was_fitted_on_and_refuses_one_file_for_both(tmp_path: Path) -> None:
    assert shared(["a", "b", "c"], ["b", "d", "c"])[0].startswith("2 of the 3 held-out prompts were fitted on as well")
    assert shared(["a"], ["b"]) == []
    spec = resolve("emoji")
    same = tmp_path / "same.txt"
    same.write_text("# a copy\n" + (PROMPTS / "emoji.txt").read_text())
    with pytest.raises(PromptsError, match="hold the same prompts"):
        prompt_sets(spec.recipe, None, same)
    assert len(prompt_sets(spec.recipe, None, None)[1].prompts) == 264


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "marked.txt"
    path.write_bytes("# source: x\na dog\n".encode("utf-8-sig"))
    assert read_prompts(path).prompts == ("a dog",)
    path.write_bytes("a dog\na cat\n".encode("utf-8-sig"))
    assert read_prompts(path).prompts == ("a dog", "a cat")
