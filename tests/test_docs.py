"""What the documents quote stands in the code, and what they tell the reader to run is there and runs.

A fenced block is `sh`, `python` or `text`. Python runs here, on a miniature. Of shell commands, `make` and the
project's scripts are held to what is there; those of qsched-edge are parsed here and run in test_trials.py or, where
they are quick, here.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from conftest import ROOT
from graphs import model, normal, saved
from onnx import helper

from qsched_edge.checkpoint.recipe_file import read_toml
from qsched_edge.cli import reference
from qsched_edge.cli.app import app
from qsched_edge.pipelines import PIPELINES

DOCUMENTS = sorted(
    str(file.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "*/README.md", "models/*/README.md")
    for file in ROOT.glob(pattern)
    if file.name != "CHANGELOG.md" and not file.relative_to(ROOT).parts[0].startswith(".")
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(qsched-edge [^`]+)`")
BUNDLES = re.compile(r"from_pretrained\(\"([^\"]+)\"")
ELSEWHERE = {
    "docs/adding-a-backbone.md",
    "models/emoji/README.md",
}  # python that other tests hold, or is diffusers' own

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


def blocks(document: str, kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall((ROOT / document).read_text("utf-8")) if found == kind]


def lines_in(document: str) -> Iterator[list[str]]:
    """The words of each command in the document's shell blocks, comments left out."""
    for block in blocks(document, "sh"):
        yield from (words for line in block.splitlines() if (words := shlex.split(line, comments=True)))


def commands_in(document: str) -> list[list[str]]:
    """What follows qsched-edge in each of its commands."""
    return [words[1:] for words in lines_in(document) if words[0] == "qsched-edge"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_says_what_it_is(document: str) -> None:
    kinds = {kind for kind, _ in BLOCK.findall((ROOT / document).read_text("utf-8"))}
    assert kinds <= {"sh", "python", "text", "toml", "json"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_shell_commands_are_known(document: str) -> None:
    makefile, project = (ROOT / "Makefile").read_text(), read_toml(ROOT / "pyproject.toml", "project")
    for words in lines_in(document):
        match words:
            case ["make", target]:
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), words
            case [python, "-m", "pytest", file, *_] if python.endswith("python"):
                assert (ROOT / file).exists(), words
            case ["python", "-m", module, *arguments]:
                (source,) = (p for p in (ROOT / f"{module.replace('.', '/')}{end}" for end in (".py", "/__main__.py"))
                             if p.exists())  # fmt: skip
                assert [a for a in arguments if a.startswith("--") and f'"{a}"' not in source.read_text()] == []
            case ["pip", "install", where]:
                extras = re.findall(r"[\w-]+", where.partition("[")[2])
                assert where.startswith("."), words
                assert set(extras) <= project["project"]["optional-dependencies"].keys()
            case ["qsched-edge", name, *arguments]:
                typer.main.get_command(app).commands[name].make_context(name, arguments)
            case _:
                pytest.fail(f"nothing runs {words}")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_that_are_mentioned_exist(document: str) -> None:
    commands = typer.main.get_command(app).commands
    for text in INLINE.findall((ROOT / document).read_text("utf-8").replace("\n", " ")):
        name, *words = text.split()[1:]
        if name in commands:
            known = {flag for p in commands[name].params for flag in (*p.opts, *p.secondary_opts)} | {"--help"}
            assert [word for word in words if word.startswith("--") and word.strip("`].,") not in known] == [], text


PYTHON_BLOCKS = [(d, text) for d in DOCUMENTS if d not in ELSEWHERE for text in blocks(d, "python")]


@pytest.mark.parametrize(("document", "code"), PYTHON_BLOCKS, ids=[d for d, _ in PYTHON_BLOCKS])
def test_python_of_the_documents_runs(
    document: str, code: str, bundles: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a miniature in the place of each bundle that it opens."""
    for name in set(BUNDLES.findall(code)):
        shutil.copytree(bundles[4], tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, document, "exec"), {})


def test_the_command_lines_page_is_what_the_commands_say() -> None:
    """`python -m qsched_edge.cli.reference docs/cli.md` writes it."""
    assert (ROOT / "docs/cli.md").read_text("utf-8") == reference.page()


def test_the_graphs_command_of_the_documents_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    saved(model([product], {"x": ("float32", [1, 256])}, {"w": normal(256, 256)}), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    ((name, *arguments),) = commands_in("docs/quantization.md")
    command = typer.main.get_command(app).commands[name]
    with command.make_context(name, arguments) as context:
        command.invoke(context)
    assert (tmp_path / "model-w4.onnx").is_file()


def test_what_can_be_exported_is_what_the_readme_says() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in PIPELINES if f"`{name}`" not in readme] == []


def test_folders_that_documents_name_exist() -> None:
    for document in (*ROOT.glob("docs/*.md"), ROOT / "README.md"):
        for name in re.findall(r"`(qsched_edge/[\w/.]+)`", document.read_text("utf-8")):
            assert Path(ROOT / name).exists(), (document.name, name)


HELD = re.findall(r"`(tests/\w+\.py)::(\w+)`", "".join((ROOT / d).read_text("utf-8") for d in DOCUMENTS))


def test_tests_that_documents_name_exist() -> None:
    assert HELD
    assert [name for file, name in HELD if f"def {name}(" not in (ROOT / file).read_text("utf-8")] == []
