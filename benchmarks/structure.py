"""What the package's structure amounts to: `python -m benchmarks.structure [FOLDER]` (default: qsched_edge)."""

from __future__ import annotations

import ast
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

LONG, MANY = 40, 7  # lines of a function, parameters of one: beyond them a reason is due
ROOT = Path(__file__).parent.parent


def modules_in(package: Path) -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every file of a package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text("utf-8"))
    return found


def imports_of(tree: ast.Module, names: set[str], registries: bool) -> set[str]:
    """The modules among `names` that a file imports, wherever the import stands, and those that the strings
    "module:name" of `registries` name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and registries:
            found.add(node.value.partition(":")[0])
    return found & names


def arrows(trees: dict[str, ast.Module], registries: bool = False) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports, or names in `registries`."""
    return {name: imports_of(tree, set(trees), registries) - {name} for name, tree in trees.items()}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in graph[todo.pop()] - seen:
                seen.add(name)
                todo.append(name)
        return seen

    reach = {name: reached(name) for name in graph}
    around = {name: frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return [set(group) for group in set(around.values()) if group]


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def parameters(function: ast.FunctionDef) -> int:
    given = function.args
    return len([a for a in (*given.posonlyargs, *given.args, *given.kwonlyargs) if a.arg not in ("self", "cls")])


def top_level_names(tree: ast.Module) -> set[str]:
    """What a module defines for others: functions, classes and constants."""
    found = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def figures(package: Path) -> dict[str, object]:
    """Counts of one package's files, lines, circles and oversized pieces."""
    trees = modules_in(package)
    owners = defaultdict(list)
    for module, tree in trees.items():
        for name in top_level_names(tree):
            owners[name].append(module)
    all_functions = [f for tree in trees.values() for f in functions(tree)]
    flat = Counter(path.parent.relative_to(package).as_posix() for path in package.rglob("*.py"))
    return {
        "files": len(trees),
        "lines": sum(len(path.read_text("utf-8").splitlines()) for path in package.rglob("*.py")),
        "most files flat in a folder": dict(flat.most_common(3)),
        "import circles": sorted(sorted(group) for group in circles(arrows(trees))),
        "names defined more than once": sum(len(modules) > 1 for modules in owners.values()),
        f"functions over {LONG} lines": sum(int(f.end_lineno or 0) - f.lineno + 1 > LONG for f in all_functions),
        f"functions of more than {MANY} parameters": sum(parameters(f) > MANY for f in all_functions),
    }


if __name__ == "__main__":
    print(json.dumps(figures(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "qsched_edge"), indent=1))
