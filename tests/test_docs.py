"""What the documents quote stands in the code, and what they tell the reader to run is there."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

from qsched_edge.pipelines import PIPELINES

GUIDE = ROOT / "docs/adding-a-backbone.md"
PYTHON = re.compile(r"```python\n# (\S+)\n(.*?)```", re.DOTALL)
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize(("file", "code"), PYTHON.findall(GUIDE.read_text("utf-8")))
def test_code_of_the_guide_is_the_code_that_runs(file: str, code: str) -> None:
    """The family tests draw with these very lines and compare with diffusers."""
    assert code in (ROOT / file).read_text("utf-8")


def test_every_block_of_the_guide_says_where_it_stands() -> None:
    text = GUIDE.read_text("utf-8")
    assert len(PYTHON.findall(text)) == text.count("```python") > 3


def test_the_commands_of_the_guide_name_tests_that_exist() -> None:
    for command in SHELL.findall(GUIDE.read_text("utf-8")):
        file, _, name = re.match(r"python -m pytest (\S+)( -k (\w+))?", command).groups()
        assert f'"{name}' in (ROOT / file).read_text("utf-8")


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", GUIDE.read_text("utf-8")))
def test_links_of_the_guide_lead_somewhere(link: str) -> None:
    assert (GUIDE.parent / link).exists()


def test_what_can_be_exported_is_what_the_readme_says() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in PIPELINES if f"`{name}`" not in readme] == []


def test_folders_that_documents_name_exist() -> None:
    for document in (*ROOT.glob("docs/*.md"), ROOT / "README.md"):
        for name in re.findall(r"`(qsched_edge/[\w/.]+)`", document.read_text("utf-8")):
            assert Path(ROOT / name).exists(), (document.name, name)
