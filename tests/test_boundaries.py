"""Who may import whom, and how light the light things are."""

import ast
import importlib
import importlib.util
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks.structure import arrows, circles, modules_in

RUNTIME = ROOT / "runtimes/python/qsched_runtime"
HEAVY = (
    "numpy", "onnxruntime", "torch", "diffusers", "transformers", "onnx", "onnx_ir", "scipy", "neural_compressor",
    "open_clip", "torchvision", "typer",
)  # fmt: skip
ORDER = (  # lowest first; rooms of one line do not know each other
    ("qsched_edge",),
    ("errors", "lookup", "_shelf", "torchvision_schema", "installed"),
    ("noise", "intervals", "precision", "choices", "prompts"),
    ("work",),
    ("checkpoint", "capture"),
    ("pipelines",),
    ("quantize",),
    ("observe", "foreign"),
    ("bundle",),
    ("export", "jaq", "serve"),
    ("calibrate",),
    ("evaluate",),
    ("ablate",),
    ("cli",),
    ("__main__",),
)


def room_of(module: str) -> str:
    """The folder below the package, or the module itself where it lies flat."""
    return module.split(".")[1] if "." in module else module


def loaded_after(code: str) -> set[str]:
    listing = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_runtime_imports_numpy_onnxruntime_and_the_standard_library_only() -> None:
    before = loaded_after("")
    added = loaded_after("from qsched_runtime import *") - before
    foreign = {n for n in added if n not in sys.stdlib_module_names and not n.startswith("_")}
    assert foreign <= {"numpy", "cython_runtime", "onnxruntime", "qsched_runtime"}, foreign


def test_onnxruntime_is_told_not_to_report_home_before_it_is_imported() -> None:
    code = "import qsched_runtime.sessions, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "1\n"
    first = (RUNTIME / "__init__.py").read_text().index("ORT_DISABLE_TELEMETRY")
    assert first < (RUNTIME / "__init__.py").read_text().index("import_module(f")


def test_command_line_starts_without_heavy_packages() -> None:
    start = "import qsched_edge.cli.app as c\ntry:\n c.app()\nexcept SystemExit: pass"
    code = f"import sys\nsys.argv[1:] = ['--help']\n{start}"
    assert not loaded_after(code) & set(HEAVY) - {"typer"}


def test_help_takes_less_than_half_a_second_of_cpu() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "qsched_edge", "--help"], capture_output=True, check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_runtime_never_imports_the_toolkit() -> None:
    for path in RUNTIME.glob("*.py"):
        assert not {n for n in imports_of(path) if n.startswith("qsched_edge")}, path


def test_rooms_import_only_what_stands_below_them() -> None:
    """All arrows, the lazy ones and those of registries included, held against one order; see docs/architecture.md."""
    place = {room: i for i, rooms in enumerate(ORDER) for room in rooms}
    for module, targets in arrows(modules_in(ROOT / "qsched_edge"), registries=True).items():
        for target in targets:
            here, there = room_of(module), room_of(target)
            assert place[there] < place[here] or here == there, f"{module} imports {target}"


def test_no_module_reaches_itself() -> None:
    assert circles(arrows(modules_in(ROOT / "qsched_edge"))) == []


def test_nothing_pickles_or_trusts_remote_code() -> None:
    for path in [*ROOT.glob("qsched_edge/**/*.py"), *RUNTIME.glob("*.py"), *ROOT.glob("training/*.py")]:
        text = path.read_text()
        assert not imports_of(path) & {"pickle", "cloudpickle", "dill"}, path
        assert "trust_remote_code" not in text, path
        assert "torch.load(" not in text, path


IMPORTERS = [*ROOT.glob("qsched_edge/**/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("training/*.py")]


@pytest.mark.parametrize("path", IMPORTERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_import_names_something_that_exists(path: Path) -> None:
    """Those inside functions too, which nothing else sees until they run."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("qsched_edge", "qsched_runtime")):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                named = f"{node.module}.{alias.name}"
                assert hasattr(module, alias.name) or importlib.util.find_spec(named), named
