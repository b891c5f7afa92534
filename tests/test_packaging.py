"""The built wheel, an embedding app's bare environment, and that editable and wheel installs agree."""

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from conftest import ROOT, cli
from packaging.requirements import Requirement

ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the wheel, and no checkout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def embedded(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The python of a virtual environment that holds what an embedding app needs and nothing else."""
    python = bare_environment(tmp_path_factory.mktemp("app"))
    install(python, wheel)
    return python


def bare_environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    return folder / "venv/bin/python"


def pip_install(python: Path, *words: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *words]
    subprocess.run(command, check=True, env=ALONE)


def install(python: Path, wheel: Path, extra: str = "") -> None:
    """As pip would, from no index: what the wheel requires is linked from where these tests have it."""
    named = f"{wheel}[{extra}]" if extra else str(wheel)
    pip_install(python, "--no-index", "--no-deps", "--force-reinstall", named)
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    (ours,) = distributions(name="qsched-edge", path=[str(site)])
    for name in sorted(closure(ours, extra) - {"qsched-edge"}):
        here = distribution(name)
        for top in {Path(file).parts[0] for file in here.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(here.locate_file(top))))


def closure(of: Distribution, extra: str) -> set[str]:
    """Names of what a distribution requires on this machine, and what that requires."""
    found: set[tuple[str, ...]] = set()
    todo = [(of, extra)]
    while todo:
        one, extra = todo.pop()
        for requirement in map(Requirement, one.requires or ()):
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if wanted and (requirement.name, *requirement.extras) not in found:
                found.add((requirement.name, *requirement.extras))
                inner = of if requirement.name == of.name else distribution(requirement.name)
                todo += [(inner, e) for e in requirement.extras or ("",)]
    return {name for name, *_ in found}


def run(python: Path, code: str, *arguments: object) -> str:
    command = [str(python), "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/", env=ALONE).stdout


def test_wheel_holds_two_packages_and_the_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"qsched_edge", "qsched_runtime"}
    held = {n.removeprefix("qsched_edge/_shelf_data/") for n in names if "_shelf_data" in n}
    for folder in ("export", "calib_prompts"):
        expected = {f"{folder}/{p.name}" for p in (ROOT / folder).iterdir()}
        assert expected <= held
        assert not list((ROOT / folder).rglob("*.py"))
    assert {f"runtimes/web/src/{p.name}" for p in (ROOT / "runtimes/web/src").iterdir()} <= held
    assert {f"qsched_edge/serve/page/{p.name}" for p in (ROOT / "qsched_edge/serve/page").iterdir()} <= set(names)


def test_requirements_never_name_both_onnxruntimes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        lines = archive.read(name).decode().splitlines()
    required = [Requirement(line.split(": ", 1)[1]) for line in lines if line.startswith("Requires-Dist")]

    def chosen(extra: str) -> set[str]:
        return {r.name for r in required if r.marker is None or r.marker.evaluate({"extra": extra})}

    assert chosen("") == {"numpy", "onnxruntime"}
    assert {n for n in chosen("gpu") if n.startswith("onnxruntime")} == {"onnxruntime-gpu"}


def installed(python: Path) -> set[str]:
    code = "from importlib.metadata import distributions as d; print('\\n'.join(x.name for x in d()))"
    return {name.lower() for name in run(python, code).split()}


def test_embedding_app_needs_numpy_and_onnxruntime(embedded: Path) -> None:
    names = installed(embedded)
    assert {"qsched-edge", "numpy", "onnxruntime"} <= names
    assert not names & {"torch", "diffusers", "transformers", "onnx", "neural-compressor", "typer"}


@pytest.mark.slow
def test_pip_installs_no_more_than_that(embedded: Path, wheel: Path, tmp_path: Path) -> None:
    """From the index: what the tests without a network link is what pip finds."""
    python = bare_environment(tmp_path)
    pip_install(python, str(wheel), "-c", str(ROOT / "constraints.txt"))
    assert installed(python) == installed(embedded)
    run(python, "import qsched_runtime; qsched_runtime.Sampler")


def test_embedding_app_draws_the_same_png(embedded: Path, bundles: dict[int, Path], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from qsched_runtime import Sampler, png_bytes\n"
        "image = Sampler.from_pretrained(sys.argv[1])('a red apple, noto style', seed=7).images[0]\n"
        "Path(sys.argv[2]).write_bytes(png_bytes(image))"
    )
    run(embedded, code, bundles[4], tmp_path / "app.png")
    done = cli("run", bundles[4], "-p", "a red apple, noto style", "--seed", 7, "-o", tmp_path / "cli.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "app.png").read_bytes() == (tmp_path / "cli.png").read_bytes()


def test_command_without_its_packages_names_the_pip_command(embedded: Path, wheel: Path) -> None:
    command = [str(embedded.parent / "qsched-edge"), "models"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ALONE)
    assert done.returncode == 1
    assert done.stderr.strip() == f'error: the command line needs typer: pip install "{wheel}[cli]"'


def test_wheel_and_checkout_list_the_same_recipes(embedded: Path) -> None:
    code = (
        "import json; from qsched_edge._shelf import shelf\n"
        "print(json.dumps({p.name: p.read_text('utf-8') for p in sorted(shelf('export').glob('*.toml'))}))"
    )
    assert json.loads(run(embedded, code)) == json.loads(run(Path(sys.executable), code))


@pytest.fixture(scope="module")
def command(embedded: Path, wheel: Path) -> Path:
    """qsched-edge in the same environment with the extra `cli`."""
    install(embedded, wheel, "cli")
    return embedded.parent / "qsched-edge"


def test_commands_name_the_smallest_extra_and_where_it_is(
    command: Path, wheel: Path, bundles: dict[int, Path], miniature: Path, tmp_path: Path
) -> None:
    """The project is on no index: the command names the wheel that it was installed from."""
    asked = {
        "export": ("export", "-m", miniature, "-o", tmp_path / "x"),
        "quantize": ("inspect", bundles[4]),
        "calibrate": ("calibrate", bundles[4]),
        "evaluate": ("evaluate", bundles[4], "-o", tmp_path / "report"),
        "serve": ("serve", bundles[4], "--port", 0),
    }
    for extra, arguments in asked.items():
        done = subprocess.run(
            [command, *map(str, arguments)], capture_output=True, text=True, check=False, cwd="/", env=ALONE
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: this command needs ")
        assert done.stderr.endswith(f': pip install "{wheel}[{extra}]"\n')
    assert list(tmp_path.iterdir()) == []
    for arguments in (("verify", bundles[4]), ("run", bundles[4], "-p", "x", "-o", tmp_path / "x.png"), ("models",)):
        subprocess.run([command, *map(str, arguments)], check=True, capture_output=True, cwd="/", env=ALONE)


def test_the_embedded_model_outside_a_checkout_says_how(command: Path) -> None:
    done = subprocess.run(
        [command, "export", "-m", "emoji"], capture_output=True, text=True, check=False, cwd="/", env=ALONE
    )
    assert done.returncode == 1
    assert "is in the repository, not in the wheel: give -m CHECKOUT/export/emoji.toml" in done.stderr
